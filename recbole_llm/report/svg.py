"""Inline SVG from matplotlib: the same bytes for the same figure, the page's colours and font, ids of its own.

Figures are drawn in placeholder colours, which become CSS variables: one drawing serves light and dark pages.
"""

import html
import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from recbole_llm.errors import MissingDependencyError

WIDTH = 281.0  # points; a phone shows it 1.25 times as large
FONT_SIZE = 8.0
INK, MUTED, RULE = "#010101", "#020202", "#030303"
N_COLOURS = 8
_VARIABLES = {INK: "--ink", MUTED: "--muted", RULE: "--rule"}


def colour(k: int) -> str:
    """Placeholder of the k-th colour of the palette."""
    return f"#0a00{k % N_COLOURS:02x}"


def require(otherwise: str = "") -> None:
    """Raises: MissingDependencyError without the packages that the HTML page is made with.

    Args:
        otherwise: end of the message, a way out without them where a command has one.
    """
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"the HTML page needs the package '{error.name}', which is not installed; run: pip install "
            f"'recbole-llm[report]'{otherwise}"
        ) from None


@contextmanager
def style() -> Iterator[None]:
    """matplotlib's own defaults and ours, whatever the user has configured, for drawing and rendering."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph ")  # the browser has fonts for what DejaVu lacks
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {
                "svg.fonttype": "none",
                "svg.hashsalt": "recbole-llm",
                "text.parse_math": False,
                "font.size": FONT_SIZE,
                "xtick.labelsize": FONT_SIZE - 1,
                "ytick.labelsize": FONT_SIZE - 1,
                "axes.titlesize": FONT_SIZE,
                "axes.titlelocation": "left",
                "text.color": INK,
                "axes.edgecolor": MUTED,
                "axes.labelcolor": INK,
                "axes.titlecolor": INK,
                "xtick.color": MUTED,
                "ytick.color": MUTED,
                "xtick.labelcolor": INK,
                "ytick.labelcolor": INK,
                "grid.color": RULE,
                "grid.linewidth": 0.6,
                "axes.spines.top": False,
                "axes.spines.right": False,
                "axes.linewidth": 0.6,
                "axes.axisbelow": True,
                "axes.formatter.useoffset": False,
                "axes.formatter.limits": (-4, 6),
                "lines.linewidth": 1.2,
            }
        )
        yield


def figure(height: float):
    """An empty figure of the common width; height in points."""
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH / 72, height / 72))


def axes(figure, left: float, bottom: float, right: float, top: float):
    """Axes with margins in points to the figure's edges."""
    width, height = figure.get_figwidth() * 72, figure.get_figheight() * 72
    return figure.add_axes(
        (left / width, bottom / height, (width - left - right) / width, (height - bottom - top) / height)
    )


def render(figure, prefix: str, label: str) -> str:
    """A figure as an ``<svg>`` element to stand in HTML.

    Args:
        prefix: of its ids, unique on the page.
        label: text alternative.
    """
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))  # a date would make every file another
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    view_box = re.search(r'viewBox="[^"]*"', text)[0]
    text = re.sub(
        r"<svg[^>]*>", lambda _: f'<svg {view_box} role="img" aria-label="{html.escape(label)}">', text, count=1
    )
    text = text.replace("xlink:href", "href")
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', text))
    text = re.sub(r' id="([^"]*)"', lambda m: f' id="{prefix}{m[1]}"' if m[1] in used else "", text)
    text = re.sub(r'(url\(#|href="#)', rf"\g<1>{prefix}", text)
    text = re.sub(r"font: ([^;\"]*?)([\d.]+)px [^;\"]*", _font, text)
    for placeholder, variable in _VARIABLES.items():
        text = text.replace(placeholder, f"var({variable})")
    text = re.sub(r"#0a00([0-9a-f]{2})", lambda m: f"var(--c{int(m[1], 16)})", text)
    return re.sub(r"\n\s*", "\n", text).strip()


def _font(match: re.Match) -> str:
    """Size and weight of matplotlib's ``font`` shorthand; the family is the page's."""
    weight = match[1].strip()
    return (f"font-weight: {weight}; " if weight else "") + f"font-size: {match[2]}px"
