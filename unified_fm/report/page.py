"""The page that `report.py` fills in: a Jinja template as text, rendered with escaping on."""

_STYLE = """
:root { color-scheme: light dark; --ink: #20242a; --soft: #667; --paper: #fff; --card: #f5f6f8;
  --line: #dfe2e7; --good: #2f8f4e; --bad: #c0453c; --accent: #3b82c4; }
@media (prefers-color-scheme: dark) { :root { --ink: #e3e6ea; --soft: #9aa2ad; --paper: #16191d;
  --card: #1f2329; --line: #343a43; --good: #5cbf7c; --bad: #e2776f; --accent: #6aa9e0; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1040px; padding: 28px 22px 60px; background: var(--paper);
  color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", Helvetica, Arial, sans-serif; }
h1 { font-size: 25px; margin: 0 0 6px; } h2 { font-size: 18px; margin: 38px 0 10px; }
p.note { color: var(--soft); margin: 0 0 14px; font-size: 13.5px; max-width: 80ch; }
dl.facts { display: flex; flex-wrap: wrap; gap: 6px 26px; margin: 10px 0 20px; }
dl.facts div { display: flex; flex-direction: column; }
dt { color: var(--soft); font-size: 12px; } dd { margin: 0; font-weight: 600; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th { text-align: left; color: var(--soft); font-weight: 500; font-size: 12.5px; }
th, td { padding: 5px 10px 5px 0; border-bottom: 1px solid var(--line); vertical-align: middle; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
th.number { text-align: right; } td.group { color: var(--soft); } td.value { font-weight: 650; }
td.wide { overflow-wrap: anywhere; } .soft { color: var(--soft); font-weight: 400; }
.bar { position: relative; width: 130px; height: 8px; border-radius: 4px; background: var(--line); }
.bar i { position: absolute; inset: 0 auto 0 0; border-radius: 4px; background: var(--accent); }
.bar b { position: absolute; top: -3px; bottom: -3px; width: 2px; background: var(--ink); }
svg.chart, .chart > svg { width: 100%; height: auto; color: var(--ink); }
.grid { display: grid; gap: 14px; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); }
.grid.wide { grid-template-columns: repeat(auto-fill, minmax(470px, 1fr)); }
.grid.tight { grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 10px;
  min-width: 0; overflow-wrap: anywhere; }
.side { display: flex; gap: 12px; align-items: flex-start; } .side > div { min-width: 0; flex: 1; }
.picture { position: relative; flex: none; border-radius: 4px; overflow: hidden; width: 96px;
  line-height: 0; } .picture img { width: 100%; height: auto; }
.picture img.small { image-rendering: pixelated; }
.over { position: relative; }
.over svg { position: absolute; inset: 0; width: 100%; height: 100%; overflow: hidden; }
.tight .picture { width: 100%; }
.row { display: flex; gap: 6px; margin-top: 8px; flex-wrap: nowrap; }
.row .picture { width: 12.8%; border: 3px solid transparent; }
.row .picture.right { border-color: var(--good); }
.row .picture.wrong { border-color: var(--line); }
ol.plain { list-style: none; margin: 0; padding: 0; font-size: 13.5px; }
ol.plain li { display: flex; gap: 7px; color: var(--soft); }
ol.plain li.right { color: var(--good); font-weight: 600; }
ol.plain li::before { content: "\\2013"; } ol.plain li.right::before { content: "\\2713"; }
.row .truth { margin: 0 0 0 auto; align-self: center; white-space: nowrap; }
.truth { margin-top: 7px; font-size: 12.5px; color: var(--bad); }
.caption { font-size: 14px; } .guess { position: relative; font-size: 13px; padding: 1px 6px;
  margin-top: 3px; border-radius: 3px; display: flex; justify-content: space-between; z-index: 0; }
.guess i { position: absolute; inset: 0 auto 0 0; border-radius: 3px; background: var(--soft);
  opacity: .22; z-index: -1; }
.guess.right { font-weight: 650; } .guess.right i { background: var(--good); opacity: .4; }
.good { color: var(--good); } .bad { color: var(--bad); }
.predicted { fill: none; stroke: #e8772e; stroke-width: 2.5; }
.target { fill: none; stroke: #1fa04c; stroke-width: 2.5; stroke-dasharray: 5 3; }
.key { display: inline-block; width: 22px; border-top: 3px solid #e8772e; vertical-align: middle; }
.key.true { border-top: 3px dashed #1fa04c; }
summary { cursor: pointer; color: var(--soft); margin: 14px 0 8px; }
code { font: 12.5px ui-monospace, Menlo, Consolas, monospace; }
@media print { body { max-width: none; } .card { break-inside: avoid; } }
"""

_MACROS = """
{% macro picture(image, class="") %}
<div class="picture {{ class }}"><img alt="" src="{{ image.source }}"
  {%- if image.small %} class="small"{% endif %}></div>
{% endmacro %}
{% macro rectangle(box, class) %}
<rect class="{{ class }}" x="{{ box.x }}%" y="{{ box.y }}%" width="{{ box.w }}%"
  height="{{ box.h }}%"/>
{% endmacro %}
"""

_HEAD = """
<h1>{{ title }}</h1>
{% if facts %}
<dl class="facts">
{% for name, value in facts.items() %}
<div><dt>{{ name }}</dt><dd>{{ value }}</dd></div>
{% endfor %}
</dl>
{% endif %}
{% if streams %}
<table class="streams">
<tr><th>stream</th><th>pipeline</th><th>source</th><th class="number">batch</th>
<th>learnt from it</th><th>records</th></tr>
{% for stream in streams %}
<tr><td><strong>{{ stream.name }}</strong></td><td>{{ stream.pipeline }}</td>
<td class="wide">{{ stream.source }}</td><td class="number">{{ stream.batch_size }}</td>
<td>{{ stream.objectives }}</td><td>{{ stream.records }}</td></tr>
{% endfor %}
</table>
{% endif %}
{% if settings %}
<details><summary>The whole configuration ({{ settings | length }} entries)</summary>
<table class="settings">
{% for name, value in settings %}
<tr><td><code>{{ name }}</code></td><td class="wide"><code>{{ value }}</code></td></tr>
{% endfor %}
</table></details>
{% endif %}
"""

_RESULTS = """
{% if results %}
<h2>Results on held-out data</h2>
<p class="note">Each number stands beside what the best guess without the model reaches on the same
examples (the mark on the bar); ± is one standard error over the examples.</p>
<table class="results">
<tr><th></th><th>metric</th><th class="number">value</th><th></th><th class="number">chance</th>
<th>chance is</th></tr>
{% for row in results %}
<tr><td class="group">{{ row.group if loop.first or row.group != loop.previtem.group else "" }}</td>
<td>{{ row.name }}{% if row.lower %} <span class="soft">(lower is better)</span>{% endif %}</td>
<td class="number value">{{ row.value }}</td>
<td>{% if row.bar is not none %}<div class="bar"><i style="width:{{ row.bar }}%"></i>
{%- if row.mark is not none %}<b style="left:{{ row.mark }}%"></b>{% endif %}</div>{% endif %}</td>
<td class="number">{{ row.chance }}</td><td class="soft">{{ row.chance_is }}</td></tr>
{% endfor %}
</table>
{% endif %}
"""

_CHARTS = """
{% for chart in charts %}
{% if chart.folded %}
<details><summary>{{ chart.title }}</summary><div class="chart">{{ chart.svg }}</div></details>
{% else %}
<h2>{{ chart.title }}</h2>
<div class="chart">{{ chart.svg }}</div>
{% endif %}
{% endfor %}
"""

_SECTIONS = """
{% for section in sections %}
{% if section.kind == "captions" %}
<h2>{{ section.name }}: captions found for an image</h2>
<p class="note">Best first; a tick marks a true caption.</p>
<div class="grid">
{% for row in section.rows %}
<div class="card side">{{ picture(row.image) }}<div><ol class="plain">
{% for caption, right in row.candidates %}
<li{% if right %} class="right"{% endif %}>{{ caption }}</li>
{% endfor %}
</ol>{% if row.truth %}<div class="truth">missed: {{ row.truth | join(" / ") }}</div>{% endif %}
</div></div>
{% endfor %}
</div>
{% elif section.kind == "images" %}
<h2>{{ section.name }}: images found for a caption</h2>
<p class="note">Best first; a green frame marks a true image.</p>
<div class="grid wide">
{% for row in section.rows %}
<div class="card"><div class="caption">{{ row.caption }}</div><div class="row">
{% for image, right in row.candidates %}
{{ picture(image, "right" if right else "wrong") }}
{% endfor %}
{% if row.truth %}
<div class="truth">missed:</div>
{% for image in row.truth %}
{{ picture(image) }}
{% endfor %}
{% endif %}
</div></div>
{% endfor %}
</div>
{% elif section.kind == "boxes" %}
<h2>{{ section.name }}: where the thing is</h2>
<p class="note"><span class="key"></span> predicted &nbsp; <span class="key true"></span> true</p>
<div class="grid tight">
{% for row in section.rows %}
<div class="card"><div class="over">{{ picture(row.image) }}
<svg>{{ rectangle(row.target, "target") }}{{ rectangle(row.predicted, "predicted") }}</svg></div>
<div class="caption">{{ row.phrase }}</div>
<div class="{{ 'good' if row.good else 'bad' }}">IoU {{ row.iou }}</div></div>
{% endfor %}
</div>
{% else %}
<h2>{{ section.name }}: the hidden word</h2>
<p class="note">The model's guesses with their probabilities; the bold one is the word.</p>
<div class="grid">
{% for row in section.rows %}
<div class="card side">{% if row.image %}{{ picture(row.image) }}{% endif %}
<div><div class="caption">{{ row.caption }}</div>
{% for guess in row.guesses %}
<div class="guess{{ ' right' if guess.right else '' }}"><i style="width:{{ guess.percent }}%"></i>
<span>{{ guess.word }}</span><span>{{ guess.percent }} %</span></div>
{% endfor %}
<div class="soft">the word: <strong>{{ row.word }}</strong></div></div></div>
{% endfor %}
</div>
{% endif %}
{% endfor %}
"""

PAGE = f"""{_MACROS}<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{{{{ title }}}}</title>
<style>{_STYLE}</style></head><body>
{_HEAD}{_RESULTS}{_CHARTS}{_SECTIONS}
</body></html>
"""
