"""Damage to files that nobody notices who does not look for it."""

import pathlib
import re


def change_a_digit(path: pathlib.Path, name: str):
  """Changes the first digit of the first number of a name in a JSON file."""
  text = path.read_text()
  found = re.search(rf'"{name}": -?(\d)', text)
  place = found.start(1)
  digit = (int(text[place]) + 1) % 10 or 1
  path.write_text(f'{text[:place]}{digit}{text[place + 1 :]}')
