"""JSON, JSON Lines and YAML that others wrote, read within limits. The one door for text of unknown origin.

What is refused, always with file and line, what is wrong and a remedy: text in no known encoding, nesting deeper than
`MAX_DEPTH`, numbers that no 64-bit integer or double holds, half a character (`\\ud800`), YAML whose aliases grow or
run in a circle, keys given twice in YAML (in JSON where a caller asks: elsewhere the last one counts, as everywhere),
lines and files beyond any sensible size. `NaN` is no JSON, but pandas writes it for what is missing: read as null.
`Infinity` is refused.

`json_of` and `yaml_of` raise `Unreadable`, a ValueError, for readers that quarantine rows; the readers of files raise
`UserError`. `naming` is for everything else that can go wrong while a file is read.
"""

from mmpo.outside.failures import Unreadable, first_line, names_its_file, naming
from mmpo.outside.from_json import BLOCK, begins_with_list, json_of, read_json, read_rows, readable_rows, stream_list
from mmpo.outside.from_yaml import read_map, read_yaml, yaml_document, yaml_of
from mmpo.outside.limits import MAX_DEPTH, MAX_FILE
from mmpo.outside.text import decode, read_lines, read_text

__all__ = [
    "BLOCK",
    "MAX_DEPTH",
    "MAX_FILE",
    "Unreadable",
    "begins_with_list",
    "decode",
    "first_line",
    "json_of",
    "names_its_file",
    "naming",
    "read_json",
    "read_lines",
    "read_map",
    "read_rows",
    "read_text",
    "read_yaml",
    "readable_rows",
    "stream_list",
    "yaml_document",
    "yaml_of",
]
