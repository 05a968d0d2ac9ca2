"""From a template to the text of a page: everything is escaped that does not say of itself that it is markup."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from prunetune.analysis.pairing import percent
from prunetune.report.svg import css_variables


def render(template: str, **values: Any) -> str:
    """The page that `template` makes of `values`; `style` is the style sheet of all pages, in two themes."""
    environment = Environment(
        loader=PackageLoader("prunetune", "report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["percent"] = percent
    sheet = environment.get_template("page.css").render(light=css_variables(0), dark=css_variables(1))
    return environment.get_template(template).render(style=Markup(sheet), **values)
