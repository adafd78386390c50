"""What is said on stderr, in the form that is asked for."""

import json
import subprocess
import sys


def test_warnings_of_python_are_logged_like_all_else() -> None:
    code = "from glyph_serving import log; import warnings; log.configure(log.JSON); warnings.warn('two\\nlines')"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stderr
    entry = json.loads(said)
    assert (entry["level"], "UserWarning: two\nlines" in entry["message"]) == ("warning", True)
