"""The page in a real browser: every image loads, nothing is complained of."""

import pathlib
import shutil
import subprocess

import pytest

from lossbench.report.__main__ import write_report

CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser')
FLAGS = (
  '--headless',
  '--no-sandbox',
  '--disable-gpu',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  '--no-first-run',
  '--enable-logging=stderr',
  '--virtual-time-budget=10000',
)
# Says in the title how many images the browser could show.
SCRIPT = """
<script>
window.addEventListener('load', () => {
  const images = [...document.images];
  const shown = images.filter(i => i.complete && i.naturalWidth > 100).length;
  document.title = `images ${shown}/${images.length}, `
    + `wide ${document.documentElement.scrollWidth > window.innerWidth}`;
});
</script>
"""


@pytest.mark.skipif(CHROMIUM is None, reason='Chromium is not installed')
def test_images_load_and_the_console_is_silent(
  synthetic_study, tmp_path: pathlib.Path
):
  page = write_report(synthetic_study)
  probe = page.with_name('probe.html')
  probe.write_text(page.read_text().replace('</body>', f'{SCRIPT}</body>'))
  result = subprocess.run(
    [
      CHROMIUM,
      *FLAGS,
      f'--user-data-dir={tmp_path / "profile"}',
      '--dump-dom',
      probe.as_uri(),
    ],
    capture_output=True,
    text=True,
    check=False,
    timeout=120,
  )
  assert '<title>images 15/15, wide false</title>' in result.stdout
  assert 'CONSOLE' not in result.stderr
