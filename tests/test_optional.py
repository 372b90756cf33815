import pytest

from evclip_ray.config import ConfigError
from evclip_ray.optional import require


def test_require_missing_package_names_the_extra():
    with pytest.raises(ConfigError, match=r"^a chart needs .*'no_such_package'.*evclip-ray\[report\]"):
        require("no_such_package.inner", extra="report", purpose="a chart")


def test_require_broken_package_raises_its_own_error(tmp_path, monkeypatch):
    (tmp_path / "needs_another.py").write_text("import no_such_package\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        require("needs_another", extra="report", purpose="a chart")


def test_require_installed_package_returns_the_module():
    assert require("json", extra="report", purpose="a chart").dumps([]) == "[]"
