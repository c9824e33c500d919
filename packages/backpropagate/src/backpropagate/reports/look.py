"""How reports look: one style sheet for light and dark, wide and narrow pages; colours checked for contrast."""

from __future__ import annotations

_LIGHT = {
    "bg": "#f6f7f9", "surface": "#fff", "well": "#eef0f4", "line": "#d8dce3", "text": "#161a22", "muted": "#556074",
    "accent": "#1d5bd1", "soft": "#e5edfb", "ok": "#10703a", "ok-soft": "#e2f3e8", "warn": "#7d5200",
    "warn-soft": "#fbefd8", "bad": "#b0231b", "bad-soft": "#fce7e5", "curve": "#1d5bd1", "curve-2": "#10703a",
}  # fmt: skip
_DARK = {
    "bg": "#0e1014", "surface": "#16191f", "well": "#1e222a", "line": "#2b303a", "text": "#e7e9ef", "muted": "#a1a9b8",
    "accent": "#84adff", "soft": "#1a2947", "ok": "#5fce92", "ok-soft": "#11291c", "warn": "#e3b655",
    "warn-soft": "#2b220e", "bad": "#ff9089", "bad-soft": "#361a1b", "curve": "#84adff", "curve-2": "#5fce92",
}  # fmt: skip
_MONO = "ui-monospace,SFMono-Regular,Menlo,Consolas,monospace"

_RULES = f"""
*{{box-sizing:border-box}}
body{{margin:0;background:var(--bg);color:var(--text);font:15px/22px system-ui,-apple-system,"Segoe UI",sans-serif}}
main{{max-width:1040px;margin:0 auto;padding:24px 16px 48px}}
h1{{font-size:22px;line-height:28px;margin:0 0 4px;overflow-wrap:anywhere}}
h2{{font-size:15px;line-height:22px;margin:0 0 12px}}
h3{{font-size:15px;line-height:22px;margin:16px 0 4px}}
p{{margin:0 0 12px;overflow-wrap:anywhere;max-width:75ch}}
.lead{{font-size:17px;line-height:26px;margin:12px 0 20px}}
.small{{color:var(--muted);font-size:13px;line-height:18px}}
.card{{background:var(--surface);border:1px solid var(--line);border-radius:10px;padding:16px;margin:0 0 16px}}
.tag{{display:inline-block;border-radius:10px;padding:0 10px;font-size:13px;font-weight:600;margin:4px 0 8px}}
.note{{border-left:3px solid;padding:8px 12px;margin:0 0 16px;border-radius:0 6px 6px 0;overflow-wrap:anywhere}}
.info{{color:var(--accent);background:var(--soft)}} .ok{{color:var(--ok);background:var(--ok-soft)}}
.warn{{color:var(--warn);background:var(--warn-soft)}} .bad{{color:var(--bad);background:var(--bad-soft)}}
dl.facts{{display:grid;grid-template-columns:repeat(auto-fill,minmax(150px,1fr));gap:16px 8px;margin:0 0 16px}}
dl.facts div{{border-left:2px solid var(--line);padding-left:10px}}
dt{{color:var(--muted);font-size:13px;line-height:18px}}
dd{{margin:0;font:600 18px/26px {_MONO};font-variant-numeric:tabular-nums;overflow-wrap:anywhere}}
table{{border-collapse:collapse;width:100%;margin:0 0 12px}}
th,td{{text-align:left;vertical-align:top;padding:4px 12px 4px 0;border-bottom:1px solid var(--line);
overflow-wrap:anywhere;white-space:pre-wrap;font-variant-numeric:tabular-nums}}
th{{color:var(--muted);font-size:13px;font-weight:600}}
td:first-child{{min-width:8em}}
pre{{background:var(--well);border-radius:6px;padding:8px 12px;margin:0 0 12px;font:13px/20px {_MONO};
white-space:pre-wrap;overflow-wrap:anywhere}}
figure{{margin:0 0 8px}} svg{{display:block;width:100%;height:auto}}
figcaption{{color:var(--muted);font-size:13px}}
.narrow{{display:none}}
details{{margin:0 0 12px}} summary{{cursor:pointer;padding:2px 0}}
summary:focus-visible{{outline:2px solid var(--accent);outline-offset:2px}}
.asked{{font-weight:600;white-space:pre-wrap;max-width:none;margin:0 0 8px}}
.answers{{display:grid;grid-template-columns:repeat(auto-fit,minmax(220px,1fr));gap:12px;margin:0 0 12px}}
.answers div{{background:var(--well);border-radius:6px;padding:8px 12px}}
.answers p{{white-space:pre-wrap;margin:2px 0 0}}
.answers .chosen{{background:var(--soft)}}
@media (max-width:640px){{
main{{padding:16px 16px 32px}} .wide{{display:none}} .narrow{{display:block}}
dl.facts{{grid-template-columns:1fr 1fr}} dd{{font-size:16px}}
table.named thead{{display:none}}
table.named tr{{display:block;border-bottom:1px solid var(--line);padding:8px 0}}
table.named td{{display:block;border:0;padding:0}}
table.named td:empty{{display:none}}
table.named td:first-child{{font-weight:600}}
table.named td:not(:first-child)[data-label]::before{{content:attr(data-label) ": ";color:var(--muted);font-size:13px}}
}}
@media print{{body{{background:#fff}} details{{break-inside:avoid}}}}
"""

# A picture beside a Markdown file has nobody else's style sheet.
_PICTURE = """
.bp-t{{fill:{muted};font:12px system-ui,sans-serif}} .bp-g{{stroke:{line};fill:none}}
.bp-a{{stroke:{curve};fill:none;stroke-linejoin:round}} .bp-b{{stroke:{curve2};fill:none}}
.bp-d{{stroke:{curve2};fill:{surface};stroke-width:2}}
"""


def style() -> str:
    """The style sheet of a page."""
    light, dark = _variables(_LIGHT), _variables(_DARK)
    scheme = f":root{{color-scheme:light dark;{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}"
    return scheme + _RULES


def picture_style() -> str:
    """The style sheet of a chart: classes bp-t (text), bp-g (grid), bp-a (first curve), bp-b and bp-d (second)."""
    return f"{_picture(_LIGHT)}@media (prefers-color-scheme:dark){{{_picture(_DARK)}}}"


def _variables(colours: dict[str, str]) -> str:
    return "".join(f"--{name}:{colour};" for name, colour in colours.items())


def _picture(colours: dict[str, str]) -> str:
    used = {name: colours[name] for name in ("muted", "line", "curve", "surface")}
    return _PICTURE.format(**used, curve2=colours["curve-2"]).replace("\n", "")
