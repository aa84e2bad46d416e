"""The page's own CSS, in addition to NiceGUI's components."""

CSS = """
.nicegui-content { padding: 0; gap: 0; }
:root { --bar: 64px; }
.bar { gap: 0.25rem 0.75rem; flex-wrap: nowrap; height: var(--bar); }
.bar .q-field { padding-bottom: 0; }
.bar .filter-box { max-width: 60rem; }
.bar .q-field__native, .bar .q-field__native::placeholder { color: white; font-family: monospace; }
.bar .q-field--error .q-field__bottom { background: #8c2f2f; color: white; padding: 0.4rem 0.75rem; font-size: 0.8rem;
  border-radius: 0 0 4px 4px; max-height: calc(100vh - var(--bar)); overflow-y: auto; }
.bar .q-field__messages { line-height: 1.4; }
.panels { height: calc(100vh - var(--bar)); }
.panels .q-tab-panel { padding: 0.5rem 0.75rem; }
.split { height: 100%; }
.split .q-splitter__before { display: flex; flex-direction: column; }
.grid { flex: 1; min-height: 0; width: 100%; }
.hidden-columns { font-size: 0.75rem; opacity: 0.7; }
.grid .bad { color: #d64545; font-weight: bold; }
.grid .poor { color: #c98a1b; }
.said { padding: 0 0.75rem; font-size: 0.75rem; opacity: 0.7; min-height: 1.2rem; overflow-wrap: anywhere; }
.empty { padding: 1rem; max-width: 100%; }
.empty .nicegui-code { max-width: 100%; padding-right: 2.5rem; }
.empty .nicegui-code pre { white-space: pre-wrap; overflow-wrap: anywhere; }
.detail { padding: 0.5rem 0.75rem; font-size: 0.85rem; width: 100%; }
.title { font-weight: bold; font-family: monospace; overflow-wrap: anywhere; }
.why { list-style: disc; padding-left: 1.25rem; margin: 0.5rem 0; }
.timing { display: flex; height: 1.3rem; font-size: 0.7rem; color: white; margin: 0.25rem 0; }
.timing > div { overflow: hidden; white-space: nowrap; padding-left: 0.25rem; min-width: 3px; }
.share-0 { background: #3d7a5a; } .share-1 { background: #4a6fa5; } .share-2 { background: #777; }
.step { font-family: monospace; font-size: 0.75rem; }
.sides { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 15rem), 1fr)); gap: 1rem;
  margin-top: 0.5rem; }
.side { min-width: 0; overflow-wrap: anywhere; }
.side-name { font-weight: bold; text-transform: capitalize; }
.fields { width: 100%; font-family: monospace; font-size: 0.75rem; border-collapse: collapse; }
.fields th { text-align: left; vertical-align: top; padding-right: 0.75rem; font-weight: normal; opacity: 0.7;
  min-width: 6rem; max-width: 12rem; }
.fields td { min-width: 8rem; vertical-align: top; }
.detail pre, .json, .jwt { font-family: monospace; font-size: 0.75rem; white-space: pre-wrap; margin-top: 0.5rem; }
.detail pre.hex { white-space: pre; overflow-x: auto; }
.json details > *:not(summary), .jwt details > *:not(summary) { margin-left: 1rem; }
.json summary, .jwt summary { cursor: pointer; display: list-item; list-style: disclosure-closed inside; }
.json details[open] > summary, .jwt details[open] > summary { list-style-type: disclosure-open; }
.detail mark { background: #f3c1c1; color: #7a1f1f; }
.body--dark .detail mark { background: #5a2727; color: #ffd6d6; }
.json .str { color: #2e7d4f; } .json .int, .json .float { color: #2a5fb0; }
.body--dark .json .str { color: #7fd6a0; } .body--dark .json .int, .body--dark .json .float { color: #8fb8f5; }
.body--dark .split { --q-primary: #6a98d8; }
.nicegui-code .nicegui-code-copy { opacity: 0.8; }
.note { opacity: 0.7; font-style: italic; }
.overview { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem; }
.chart { height: 16rem; }
@media (max-width: 900px) {
  :root { --bar: 112px; }
  .bar { flex-wrap: wrap; align-content: center; }
  .bar .filter-box { order: 1; flex-basis: 100%; }
  .overview { grid-template-columns: 1fr; }
}
@media (max-width: 700px) {
  :root { --bar: 150px; }
  .opened .q-splitter__before, .opened .q-splitter__separator { display: none; }
}
"""
