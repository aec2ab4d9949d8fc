"""Reports as one HTML page that loads nothing from elsewhere."""

from pathlib import Path

from recbole_llm.report import svg
from recbole_llm.report.sections import Report

TEMPLATE = "page.html.j2"


def environment(*folders: Path):
    """jinja2 over templates of the given folders and of this one, which has the common style.

    Raises:
        MissingDependencyError: without jinja2 or matplotlib.
    """
    svg.require()
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader([*folders, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def render(report: Report) -> str:
    """The page, figures included.

    Raises:
        MissingDependencyError: without jinja2 or matplotlib.
    """
    template = environment().get_template(TEMPLATE)
    from recbole_llm.report.figures import GROUPS, draw

    pictures = {section.slug: draw(section) for section in report.sections}
    return template.render(report=report, pictures=pictures, groups=GROUPS)
