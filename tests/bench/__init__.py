"""The paired benchmark: `python -m tests.bench` (or `make bench`).

What is compared are processes: mitmdump without any addon, the same with the addon, and variants of both. All of a
comparison run side by side and take turns, A B ... B A, for several rounds; what is told is the median of the ratios
round by round, with the smallest and the largest. So a machine that is busy with something else makes the spread wider
and leaves the ratio about where it is.

    children, proc      processes and what the kernel knows of them
    collector, json_upstream, stream_upstream, client      what runs in processes of its own beside the proxy
    services            starts those
    nginx               where it is installed: the upstream, and proxies to compare with
    load                wrk or the client, at saturation or at a fixed rate
    variants, proxy     what is compared, and one of it running
    page                one whose traffic page is open in a browser
    stats, turns        ratios and their spread; the taking of turns
    scenarios, parts    what is measured, from outside and in isolation
    claims, report, plot      what comes of it
"""
