"""A hook of mkdocs: files of the repository are files of the site, at the same relative places.

So links between pages, pictures and sources work on the site as they do in the repository. The
build fails if one leads nowhere.
"""

import pathlib
import re
import urllib.parse

from mkdocs.exceptions import PluginError
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).parent.parent
SHOWN = (
    '*.md', 'LICENSE', 'docs/*.md', 'examples/*.py', 'experiments/**/*.md', 'experiments/**/*.png',
    'experiments/**/*.json', 'experiments/**/*.py', 'experiments/notebooks/*.ipynb',
    'lcn_jax/**/*.py', 'lcn_jax/**/*.cc', 'lcn_jax/**/*.h',
)  # fmt: skip


@event_priority(100)  # before mkdocs-jupyter looks for notebooks
def on_files(files, config):
    for path in sorted({path for pattern in SHOWN for path in ROOT.glob(pattern)}):
        relative = path.relative_to(ROOT).as_posix()
        files.append(File(relative, str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def on_post_build(config):
    """Mkdocs itself checks the links to pages, but not those to other files and to folders."""
    site, broken = pathlib.Path(config.site_dir), []
    for page in site.rglob('index.html'):
        for link in re.findall(r'(?:href|src)=["\']?([^"\' >#]+)', page.read_text('utf-8')):
            target = page.parent / urllib.parse.unquote(link)
            is_local = not re.match(r'[a-z]+:|/', link)
            if is_local and not (target.is_file() or (target / 'index.html').is_file()):
                broken.append(f'{page.relative_to(site)}: {link}')
    if broken:
        raise PluginError('links lead nowhere:\n' + '\n'.join(sorted(set(broken))))
