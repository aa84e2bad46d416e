"""What cannot be started ends with one line."""

from __future__ import annotations

import logging

import pytest

from mitmproxy_moesif.forward.main import main

BROKERS = "moesif_kafka_brokers=127.0.0.1:1"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ((), "kafka_brokers is missing"),
        ((BROKERS,), "application_id is missing"),
        ((BROKERS, "moesif_aplication_id=x"), "moesif_aplication_id: there is no such option"),
        ((BROKERS, "moesif_application_id=x", "moesif_batch_size=0"), "batch_size"),
    ],
)
def test_a_wrong_command_line_is_one_line(
    settings: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MOESIF_APPLICATION_ID", raising=False)
    with pytest.raises(SystemExit) as ended:
        main([word for setting in settings for word in ("--set", setting)])
    assert ended.value.code == 2
    output = capsys.readouterr().err
    assert said in output
    assert output.count("\n") == 1


def test_workers_are_several_members_of_the_group(caplog: pytest.LogCaptureFixture) -> None:
    """Brokers would shut out one after the other, for ever."""
    caplog.set_level(logging.ERROR, "mitmproxy_moesif")
    given = (BROKERS, "moesif_application_id=x", "moesif_kafka_config=group.instance.id=a")
    assert main(["--workers", "2", *(word for setting in given for word in ("--set", setting))]) == 1
    assert "group.instance.id names one member of the group" in caplog.text
