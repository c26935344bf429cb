"""Which column of the user's own table holds what: as [data.columns] names it, else under a usual name.

Deliberate choices: case, spaces and punctuation of a usual name do not count ("Study ID" is study_id), those of a name
in the configuration do. What is needed and not there is an error with the names that are there. A table that has both a
whole report and its sections is read by its sections, unless the configuration names the report.
"""

import re

from mrg_grpo.data import records
from mrg_grpo.data.records import LoadOptions, first_names
from mrg_grpo.data.table_files import TableFile
from mrg_grpo.errors import UserError, nearest

USUAL = {
    "study": ("study_id", "study", "uid", "study_uid", "study_instance_uid", "case_id", "id"),
    "patient": ("patient_id", "patient", "subject_id", "subject"),
    "images": ("images", "image", "image_path", "image_paths", "image_file", "filename", "path", "file"),
    "report": ("report", "report_text", "text"),
    "findings": ("findings",),
    "impression": ("impression",),
    "split": ("split",),
    "view": ("view", "views", "view_position", "projection"),
}
"""Names of each column, the first that is there counts."""
CONTEXT = {
    "indication": ("indication", "reason_for_exam", "reason_for_study"),
    "history": ("history", "clinical_history", "clinical_information"),
    "comparison": ("comparison",),
    "age": ("age", "patient_age"),
    "sex": ("sex", "patient_sex", "gender"),
}
"""The same of what is known beside the pictures, read only where it is asked for; [data.columns] names none of it."""
NONE = "none"
"""In the configuration: no column."""


def found_columns(file: TableFile, options: LoadOptions) -> dict[str, str]:
    """What is read -> its column: as named, else under a usual name. UserError for a column that is not there."""
    found = {role: name for role in USUAL if (name := _column(file, role, getattr(options.columns, role)))}
    whole = options.columns.report and "report" in found
    if whole or not any(section in found for section in options.sections):
        for section in ("findings", "impression"):
            found.pop(section, None)
    else:
        found.pop("report", None)
    if "report" in found and options.sections != ("findings",):
        raise UserError(
            f"data.sections is {list(options.sections)!r}, but the column {found['report']!r} of {file.path} is taken "
            "whole; name data.columns.findings and data.columns.impression, or leave data.sections out"
        )
    asked = {"findings", "impression"} if "report" not in found else set()
    kept = {"findings", "impression"} if options.context else set(options.sections)
    needed = ["images", *(section for section in options.sections if section in asked)]
    for role in ["study", *needed] if options.columns.study != NONE else needed:
        if role not in found:
            raise _not_found(file, role)
    # with a context, a section that is not asked for is read, too: no sentence of it may be in the question
    found = {role: name for role, name in found.items() if role not in asked - kept}
    if options.views == "frontal" and "view" not in found:
        raise records.view_error(str(file.path), "name data.columns.view, or use views = 1 for the first image")
    if options.views != "frontal":
        found.pop("view", None)
    for role in (role for role in CONTEXT if role in options.context):
        name = _column(file, role, "")
        if name is not None and name not in found.values():
            found[role] = name
    return found


def _column(file: TableFile, role: str, name: str) -> str | None:
    """The column that is named for a role, or has a usual name; None where it has neither."""
    if name == NONE:
        return None
    if not name:
        by_name = {_folded(column): column for column in reversed(file.columns)}
        return next((by_name[_folded(usual)] for usual in (USUAL | CONTEXT)[role] if _folded(usual) in by_name), None)
    if name not in file.columns:
        hint = nearest(name, file.columns) or "name one of these"
        raise UserError(f"{file.path} has no column {name!r} (data.columns.{role}; it has: {_there(file)}); {hint}")
    return name


def _not_found(file: TableFile, role: str) -> UserError:
    looked = ", ".join(USUAL[role])
    own = ', or set it to "none" if each row is a study of its own' if role == "study" else ""
    if role == "findings":
        looked, own = f"{looked}, {', '.join(USUAL['report'])}", ", or data.columns.report"
    return UserError(
        f"{file.path} has no column for data.columns.{role} (looked for {looked}; it has: {_there(file)}); name it "
        f"there{own}"
    )


def _there(file: TableFile) -> str:
    return first_names(file.columns, 20) or "none"


def _folded(name: str) -> str:
    return re.sub(r"[\W_]", "", name.lower())
