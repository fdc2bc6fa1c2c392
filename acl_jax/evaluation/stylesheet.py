# SPDX-License-Identifier: Apache-2.0
"""How `report.html` looks: one column, light or dark as the reader's system is."""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #fbfaf7; --card: #ffffff; --ink: #1d2428; --soft: #5b666d; --line: #e2dfd8;
  --accent: #0b7285; --text: #74808a; --other: #c2a56b; --guard: #c8ccd0;
  --wrong: #fde3d8;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14181b; --card: #1c2226; --ink: #e7e9ea; --soft: #9aa6ad; --line: #313a40;
    --accent: #3fb8cf; --text: #8d99a2; --other: #a68c56; --guard: #4a545b;
    --wrong: #5a3325;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 3rem 1.25rem 5rem; max-width: 60rem;
  background: var(--page); color: var(--ink);
  font: 1rem/1.6 system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif;
}
h1, h2 {
  font-family: Charter, 'Bitstream Charter', 'Iowan Old Style', Georgia, serif;
  font-weight: 600; line-height: 1.2; text-wrap: balance;
}
h1 { font-size: 2.3rem; margin: 0 0 .4rem; }
h2 { font-size: 1.45rem; margin: 3.5rem 0 .6rem; }
h3 { font-size: .95rem; margin: 1.6rem 0 .3rem; color: var(--soft); font-weight: 600; }
p { max-width: 44rem; margin: .5rem 0 1rem; }
.soft, figcaption, .tile small { color: var(--soft); }
.lead { font-size: 1.13rem; }
.tiles {
  display: grid; gap: 1rem; margin: 2rem 0;
  grid-template-columns: repeat(auto-fit, minmax(12.5rem, 1fr));
}
.tile, .example, figure {
  background: var(--card); border: 1px solid var(--line); border-radius: .6rem;
}
.tile { padding: 1rem 1.2rem; }
.tile b { display: block; font-size: 2.1rem; font-weight: 600; line-height: 1.25; }
.tile span { display: block; font-size: .9rem; font-weight: 600; }
.tile small { display: block; font-size: .85rem; line-height: 1.4; margin-top: .3rem; }
figure { margin: 1rem 0; padding: 1.2rem; overflow-x: auto; }
figcaption { font-size: .88rem; max-width: 44rem; margin-top: .6rem; }
svg { display: block; width: 100%; min-width: 30rem; height: auto; }
svg text { font-size: 15px; fill: currentColor; font-variant-numeric: tabular-nums; }
svg .faint { fill: var(--soft); }
svg .grid { stroke: var(--line); }
svg .curve { fill: none; stroke: var(--accent); stroke-width: 2; }
rect.audio { fill: var(--accent); } rect.text { fill: var(--text); }
rect.cascade { fill: var(--other); } rect.guard { fill: var(--guard); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .93rem; }
th, td { padding: .5rem .8rem .5rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); }
thead th { color: var(--soft); font-weight: 600; font-size: .85rem; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
tr.audio { font-weight: 650; }
.example { padding: 1.2rem 1.3rem; margin: 1rem 0; }
.example header { display: flex; flex-wrap: wrap; gap: .3rem 1rem;
  justify-content: space-between; font-size: .85rem; color: var(--soft); }
.example audio { width: 100%; height: 2.4rem; margin: .5rem 0; }
.example img { display: block; width: 100%; height: 5.5rem; border-radius: .3rem; }
dl { display: grid; grid-template-columns: 9.5rem 1fr; gap: .35rem 1rem;
  margin: .9rem 0 0; }
dt { color: var(--soft); font-size: .88rem; padding-top: .1rem; }
dd { margin: 0; overflow-wrap: anywhere; white-space: pre-line; }
dd.audio { color: var(--accent); font-weight: 550; }
mark { background: var(--wrong); color: inherit; border-radius: .2rem;
  padding: 0 .15rem; }
code { font-size: .85em; overflow-wrap: anywhere; }
@media (max-width: 34rem) { dl { grid-template-columns: 1fr; gap: 0 } dd {
  margin-bottom: .5rem } }
@media print { .example, figure { break-inside: avoid; } }
"""
