"""The style sheet of a report: light and dark, wide and narrow screens, paper. Text has a contrast of at least 4.5."""

from __future__ import annotations

STYLE = """
:root {
  color-scheme: light dark;
  --page: #ffffff; --card: #f6f7f9; --line: #d9dde3; --grid: #e3e6eb; --ink: #191c22; --muted: #555c69;
  --accent: #0b5cad; --fill: #8db8e4; --second: #9a4a00; --good: #176b3a; --warn: #8a4b00; --bad: #b3261e;
  --good-back: #e2f3e8; --warn-back: #fbeed9; --bad-back: #fbe4e2; --info-back: #e3eefa;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #121419; --card: #1b1e25; --line: #343a45; --grid: #2b303a; --ink: #e7e9ee; --muted: #a6aebb;
    --accent: #74b4f5; --fill: #35608f; --second: #f0a860; --good: #7fd6a0; --warn: #f0b660; --bad: #ff9a90;
    --good-back: #16301f; --warn-back: #35270f; --bad-back: #3b1a17; --info-back: #16283c;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Noto Sans CJK SC", sans-serif;
}
main { max-width: 1180px; margin: 0 auto; padding: 28px 20px 48px; }
header { border-bottom: 1px solid var(--line); padding-bottom: 18px; margin-bottom: 22px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 6px; overflow-wrap: anywhere; }
h2 { font-size: 19px; line-height: 1.3; margin: 38px 0 12px; }
h3 { font-size: 15px; line-height: 1.4; margin: 20px 0 8px; }
p { margin: 0 0 10px; max-width: 75ch; }
p.lead { color: var(--muted); margin: 0; max-width: none; overflow-wrap: anywhere; }
p.note { color: var(--muted); font-size: 14px; }
code, .mono { font: 13px/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, "Noto Sans Mono", monospace; }
code { overflow-wrap: anywhere; }
th code, td code { white-space: nowrap; }
.pill {
  display: inline-block; margin: 0 0 0 10px; padding: 2px 10px; border-radius: 999px; font-size: 13px;
  font-weight: 600; vertical-align: 4px; background: var(--info-back); color: var(--accent); white-space: nowrap;
}
.pill.good { background: var(--good-back); color: var(--good); }
.pill.warn { background: var(--warn-back); color: var(--warn); }
.pill.bad { background: var(--bad-back); color: var(--bad); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 0; padding: 0; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 12px 14px; }
.tile { min-width: 0; overflow-wrap: anywhere; }
.tile dt { color: var(--muted); font-size: 13px; }
.tile dd { margin: 0; font-size: 23px; line-height: 1.3; font-weight: 600; font-variant-numeric: tabular-nums; }
.tile dd small { display: block; font-size: 13px; font-weight: 400; color: var(--muted); }
.tile dd.bad { color: var(--bad); } .tile dd.warn { color: var(--warn); }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)); gap: 14px; }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 12px 14px; }
figure.wide { margin: 0 0 14px; } figure .narrow { max-width: 720px; }
figcaption { font-weight: 600; font-size: 14px; margin-bottom: 6px; }
figcaption small { display: block; font-weight: 400; color: var(--muted); font-size: 13px; }
svg { display: block; width: 100%; height: auto; }
svg text { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; fill: var(--muted); }
svg .grid { stroke: var(--grid); stroke-width: 1; } svg .axis { stroke: var(--line); stroke-width: 1; }
svg .area { fill: var(--fill); opacity: .45; } svg .bar { fill: var(--fill); }
svg .curve { fill: none; stroke: var(--accent); stroke-width: 2; stroke-linejoin: round; }
svg .mark { stroke: var(--second); stroke-width: 1.5; stroke-dasharray: 4 3; }
svg text.mark { stroke: none; fill: var(--second); }
svg .dot { fill: var(--page); stroke: var(--muted); stroke-width: 2; }
svg .dot.best { fill: var(--accent); stroke: var(--accent); }
svg text.label { fill: var(--ink); }
svg .d0 { fill: #8db8e4; } svg .d1 { fill: #f2c078; } svg .d2 { fill: #a3d3a6; } svg .d3 { fill: #d9b3e6; }
svg .d4 { fill: #f0a6a0; } svg .d5 { fill: #b8bec8; } svg text.on { fill: #191c22; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 10px; margin: 0 0 14px; }
.scroll:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
caption { text-align: left; padding: 10px 14px 6px; font-weight: 600; }
th, td { text-align: left; vertical-align: top; padding: 7px 14px; border-top: 1px solid var(--line); }
thead th { border-top: 0; background: var(--card); color: var(--muted); font-weight: 600; white-space: nowrap; }
th[scope=row] { font-weight: 600; }
td.number, th.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
td.path, th.path { overflow-wrap: anywhere; min-width: 14ch; } td.about { color: var(--muted); min-width: 24ch; }
td.bar { width: 22%; min-width: 90px; vertical-align: middle; } td.bar svg { height: 10px; }
.example { border: 1px solid var(--line); border-radius: 10px; margin: 0 0 10px; overflow: clip; break-inside: avoid; }
.example .id { background: var(--card); padding: 5px 14px; color: var(--muted); overflow-wrap: anywhere; }
.pair { display: grid; grid-template-columns: 1fr 1fr; }
.pair > div { padding: 8px 14px 10px; overflow-wrap: anywhere; overflow: clip; unicode-bidi: isolate; }
.pair > div + div { border-left: 1px solid var(--line); }
.pair span { display: block; color: var(--muted); font-size: 12.5px; }
.pair p { margin: 0; unicode-bidi: isolate; } .pair p.reason { font-size: 13.5px; color: var(--muted); }
.pair p.none { color: var(--muted); font-style: italic; }
dl.facts { display: grid; grid-template-columns: minmax(120px, max-content) 1fr; gap: 4px 18px; margin: 0 0 14px; }
dl.facts dt { color: var(--muted); } dl.facts dd { margin: 0; overflow-wrap: anywhere; min-width: 0; }
dl.settings {
  columns: 3 320px; column-gap: 28px; margin: 0 0 14px; font-size: 14px; border-top: 1px solid var(--line);
}
dl.settings div {
  display: flex; gap: 14px; justify-content: space-between; padding: 4px 2px; break-inside: avoid;
  border-bottom: 1px solid var(--line);
}
dl.settings dt { color: var(--muted); flex: none; max-width: 60%; overflow-wrap: anywhere; }
dl.settings dd { margin: 0; text-align: right; overflow-wrap: anywhere; min-width: 0; unicode-bidi: isolate; }
details { border: 1px solid var(--line); border-radius: 10px; padding: 8px 14px; margin: 0 0 14px; }
summary { cursor: pointer; font-weight: 600; }
details .scroll { border: 0; margin: 6px -14px -8px; border-radius: 0; }
a { color: var(--accent); }
footer { margin-top: 40px; padding-top: 14px; border-top: 1px solid var(--line); color: var(--muted);
  font-size: 13.5px; }
@media (max-width: 640px) {
  main { padding: 18px 14px 32px; }
  h1 { font-size: 21px; } h2 { font-size: 18px; margin-top: 30px; }
  .tiles { grid-template-columns: 1fr 1fr; gap: 10px; } .tile { padding: 10px 12px; } .tile dd { font-size: 20px; }
  .pair { grid-template-columns: 1fr; }
  .pair > div + div { border-left: 0; border-top: 1px solid var(--line); }
  dl.facts { grid-template-columns: 1fr; gap: 0; } dl.facts dd { margin-bottom: 8px; }
  th, td { padding: 7px 10px; }
}
@media print {
  :root {
    --page: #fff; --card: #fff; --line: #bbb; --grid: #ddd; --ink: #000; --muted: #444; --accent: #0b4d92;
    --fill: #8db8e4; --second: #7a3b00; --good: #14532d; --warn: #6b3a00; --bad: #8c1d17;
    --good-back: #fff; --warn-back: #fff; --bad-back: #fff; --info-back: #fff;
  }
  body { font-size: 10.5pt; } main { max-width: none; padding: 0; }
  h2, h3 { break-after: avoid; } figure, .tile, tr { break-inside: avoid; }
  .scroll { overflow: visible; }
}
"""
