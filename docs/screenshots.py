"""Screenshots of a report's page, on a phone and on a desktop, light and dark, by headless Chromium.

    python docs/screenshots.py out/index.html [FOLDER]

FOLDER is where the PNG files go; default: beside the page. $CHROME names the browser where it is not on the PATH.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SIZES = {"phone": (390, 844), "desktop": (1280, 800)}  # CSS pixels
SCHEMES = {"light": 1, "dark": 0}  # Chromium's numbers for prefers-color-scheme
TIMEOUT_S = 60


def find_browser() -> str | None:
    """$CHROME, or the first known browser on the PATH."""
    return next(filter(None, map(shutil.which, filter(None, [os.environ.get("CHROME"), *BROWSERS]))), None)


def command(browser: str, page: Path, png: Path, size: tuple[int, int], scheme: int, profile: str) -> list[str]:
    """Command line for one screenshot."""
    return [
        browser,
        "--headless",
        *["--no-sandbox"] * (hasattr(os, "geteuid") and os.geteuid() == 0),  # Chromium refuses root a sandbox
        "--disable-gpu",
        "--hide-scrollbars",
        f"--user-data-dir={profile}",
        f"--window-size={size[0]},{size[1]}",
        "--force-device-scale-factor=2",
        f"--blink-settings=preferredColorScheme={scheme}",
        f"--screenshot={png}",
        page.as_uri(),
    ]


def framed(page: Path, size: tuple[int, int], folder: str) -> Path:
    """A page that shows another in a frame of the size: Chromium's windows are never as narrow as a phone."""
    frame = Path(folder) / f"frame-{size[0]}.html"
    frame.write_text(
        '<!DOCTYPE html><meta name="color-scheme" content="light dark"><body style="margin:0">'
        f'<iframe src="{page.as_uri()}" style="border:0;width:{size[0]}px;height:{size[1]}px"></iframe>',
        encoding="utf-8",
    )
    return frame


def main(argv: list[str]) -> int:
    """Take the screenshots; returns the exit code: 0, or 2 without page or browser."""
    if not 1 <= len(argv) <= 2:
        print(__doc__, file=sys.stderr)
        return 2
    page = Path(argv[0]).resolve()
    folder = Path(argv[1] if len(argv) == 2 else page.parent).resolve()
    browser = find_browser()
    if not page.is_file():
        print(f"error: {page} does not exist; make it with: recbole-llm report RUNS -o out/", file=sys.stderr)
        return 2
    if browser is None:
        names = ", ".join(BROWSERS)
        print(f"error: no browser found ({names}); install Chromium or set CHROME to its program", file=sys.stderr)
        return 2
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        for device, size in SIZES.items():
            for name, scheme in SCHEMES.items():
                png = folder / f"{page.stem}-{device}-{name}.png"
                line = command(browser, framed(page, size, temporary), png, size, scheme, f"{temporary}/profile")
                done = subprocess.run(line, capture_output=True, text=True, timeout=TIMEOUT_S)
                if done.returncode or not png.is_file():
                    print(f"error: {browser} made no {png.name}: {done.stderr.strip()[-500:]}", file=sys.stderr)
                    return 2
                print(f"wrote {png}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
