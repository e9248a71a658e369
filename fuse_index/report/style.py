"""The style of a report: no fonts, no scripts, no pictures from elsewhere; light and dark."""

STYLE = """
:root { color-scheme: light dark; --paper: #fdfdfb; --card: #fff; --ink: #1d2129; --soft: #5c6470;
  --line: #e2e4e8; --accent: #3d5a98; --note: #fff3d1; --bad: #b3261e; --help: 46,125,82;
  --harm: 190,84,36; --shade: .55; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171c; --card: #1c2027; --ink: #e7e9ee;
  --soft: #a2aab6; --line: #323843; --accent: #93b0ee; --note: #40351a; --bad: #ff9a90;
  --help: 72,176,121; --harm: 226,122,70; --shade: .6; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; margin: 0 auto;
  max-width: 70rem; padding: 1.5rem 1rem 4rem; color: var(--ink); background: var(--paper);
  overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
.lead { color: var(--soft); margin: 0 0 1rem; max-width: 46rem; }
.note { background: var(--note); padding: .6rem .9rem; border-radius: .5rem; margin: .6rem 0; }
.card { display: grid; grid-template-columns: minmax(9rem, 16rem) minmax(0, 1fr); gap: 0 1.4rem;
  background: var(--card); border: 1px solid var(--line); border-radius: .8rem;
  padding: 1.1rem; margin: 1rem 0; }
.card img { max-width: 100%; max-height: 22rem; width: auto; height: auto; display: block;
  border-radius: .5rem; border: 1px solid var(--line); }
figure { margin: 0; position: sticky; top: 1rem; align-self: start; }
figcaption, .small { color: var(--soft); font-size: .85rem; }
figcaption { margin-top: .35rem; }
.entry + .entry { border-top: 1px solid var(--line); margin-top: 1rem; padding-top: 1rem; }
.entry { min-width: 0; }
.said { font-size: 1.15rem; line-height: 1.35; margin: .1rem 0 .35rem; }
.tag { display: inline-block; color: #fff; border-radius: 1rem; padding: 0 .6rem;
  font-size: .8rem; line-height: 1.5rem; margin-bottom: .35rem; }
.figures { display: flex; flex-wrap: wrap; gap: .1rem .9rem; padding: 0; margin: 0 0 .5rem;
  list-style: none; color: var(--soft); font-size: .85rem; font-variant-numeric: tabular-nums; }
.figures b { color: var(--ink); font-weight: 600; } .bad, .bad b { color: var(--bad); }
.curve { margin: .5rem 0; max-width: 34rem; }
.curve svg { width: 100%; height: 4.2rem; display: block; overflow: visible;
  border-bottom: 1px solid var(--line); }
.ends { display: flex; justify-content: space-between; gap: 1rem; }
details { margin: .35rem 0; } summary { cursor: pointer; color: var(--accent); font-size: .95rem;
  padding: .3rem 0; min-height: 2rem; }
summary:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
.wide { overflow-x: auto; } details p { margin: .3rem 0; }
table { border-collapse: collapse; font-size: .9rem; overflow-wrap: normal;
  font-variant-numeric: tabular-nums; margin: .3rem 0 .6rem; }
th, td { padding: .25rem .7rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
th { font-weight: 600; color: var(--soft); vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; padding-left: .2rem; }
td.text { text-align: left; min-width: 11rem; white-space: normal; }
th { white-space: normal; }
.texts th, .texts td { text-align: left; white-space: normal; }
td.help { background: rgba(var(--help), calc(var(--s) * var(--shade))); }
td.harm { background: rgba(var(--harm), calc(var(--s) * var(--shade))); }
@media (max-width: 44rem) { body { padding: 1rem .7rem 3rem; }
  .card { grid-template-columns: minmax(0, 1fr); gap: .8rem; padding: .8rem; }
  figure { position: static; }
  table { font-size: .78rem; } th, td { padding: .25rem; } td.text { min-width: 8rem; } }
@media print { details { break-inside: avoid; } .card { break-inside: avoid; } }
"""
