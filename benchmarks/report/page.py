"""index.html: one file with everything inside."""

from collections.abc import Mapping, Sequence
from html import escape

from benchmarks.report import words
from benchmarks.report.markdown import missing
from benchmarks.report.tables import SUITES, Column, Section
from benchmarks.rows import Row

STYLE = """
:root { --ink: #22272e; --soft: #5b6770; --line: #e3e6ea; --ours: #fdf0ec; --accent: #c8431d; }
body { font: 15px/1.55 system-ui, sans-serif; color: var(--ink);
  max-width: 1120px; margin: 2.5rem auto; padding: 0 1.2rem }
h1 { font-size: 1.9rem; margin-bottom: .2rem }
h2 { margin-top: 3rem; border-bottom: 2px solid var(--line); padding-bottom: .3rem }
h3 { margin: 2.2rem 0 .3rem } .soft { color: var(--soft) } .verdict { font-weight: 600 }
.table { overflow-x: auto }
table { border-collapse: collapse; font-size: 13px; margin: 1rem 0; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .55rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap }
th { color: var(--soft); font-weight: 600; vertical-align: bottom } th:first-child, td:first-child { text-align: left }
td.wide, th.wide { text-align: left }
td.wide { white-space: normal; text-align: left; min-width: 20rem }
tr.ours td { background: var(--ours) } tr.ours td:first-child { color: var(--accent); font-weight: 600 }
tr.baseline td { background: #f3f5f7 } svg { max-width: 100%; height: auto; display: block; margin: .6rem 0 }
pre { background: #f3f5f7; padding: .8rem 1rem; overflow-x: auto; font-size: 12.5px } ul { padding-left: 1.2rem }
nav a { margin-right: 1.1rem; color: var(--accent); text-decoration: none }
"""


def text(sections: Sequence[Section], drawn: Mapping[str, str], rows: Sequence[Row]) -> str:
    suites = list(dict.fromkeys(section.suite for section in sections))
    body = [f"<h1>{escape(words.TITLE)}</h1>", f'<p class="soft">{words.dates(rows)}</p>']
    body.append("<nav>" + "".join(f'<a href="#{s}">{escape(SUITES[s])}</a>' for s in suites) + "</nav>")
    facts = words.machines(rows) + [f"matrix products of 4096: {each}" for each in [words.rates(rows)] if each]
    body.append("<ul>" + "".join(f"<li>{escape(fact)}</li>" for fact in facts) + "</ul>")
    body += [f"<p>{escape(words.HOW)}</p>", f"<p>{escape(words.BOUND)}</p>"]
    lines = (f"<li><b>{escape(title)}</b>: {escape(verdict)}</li>" for title, verdict in words.glance(sections))
    body.append(f"<ul>{''.join(lines)}</ul>")
    for suite in suites:
        body.append(f'<h2 id="{suite}">{escape(SUITES[suite])}</h2>')
        for section in (each for each in sections if each.suite == suite):
            body += part(section, drawn[section.name])
    body += ["<h2>How it was measured</h2>", f"<p>{escape(words.versions(rows))}</p>"]
    body.append(f"<pre>{escape(chr(10).join(words.commands(rows)))}</pre>")
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    head += f"<title>{escape(words.TITLE)}</title><style>{STYLE}</style>"
    return f"<!doctype html><html lang=en><head>{head}</head><body>{''.join(body)}</body></html>\n"


def part(section: Section, drawn: str) -> list[str]:
    body = [f"<h3>{escape(section.title)}</h3>"] if section.case else []
    if verdict := words.verdict(section):
        body.append(f'<p class="verdict">{escape(verdict)}</p>')
    if work := words.work(section):
        body.append(f'<p class="soft">{escape(work)}</p>')
    body.append(drawn)
    if section.measured:
        head = "".join(heading(column) for column in section.columns)
        lines = "".join(line(section, row) for row in section.measured)
        body.append(f'<div class="table"><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>')
    if absent := missing(section):
        body.append("<ul class=soft>" + "".join(f"<li>{escape(each)}</li>" for each in absent) + "</ul>")
    return body


def heading(column: Column) -> str:
    return f'<th{" class=wide" * column.wide} title="{escape(column.about)}">{escape(column.title)}</th>'


def line(section: Section, row: Row) -> str:
    ours = row.runtime.startswith("diffrt") and section.suite != "schedulers"
    kind = "ours" if ours else "baseline" if row.ratio == 1.0 else ""
    cells = (f"<td{' class=wide' * c.wide}>{escape(c.cell(row))}</td>" for c in section.columns)
    return f'<tr class="{kind}">{"".join(cells)}</tr>'
