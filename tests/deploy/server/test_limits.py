import pytest

from evclip_ray.config import ConfigError
from evclip_ray.deploy.server.limits import TOKEN_VARIABLE, ServerSettings, token_of


def settings(**values):
    return ServerSettings.load({"checkpoint": "best", **values})


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_needs_no_token(monkeypatch, host):
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    assert token_of(settings(host=host)) is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "server.lan"])
def test_other_address_needs_a_token(monkeypatch, host):
    monkeypatch.setenv(TOKEN_VARIABLE, "")
    with pytest.raises(ConfigError, match=f"--host {host}: other machines"):
        token_of(settings(host=host))
    assert token_of(settings(host=host, no_token=True)) is None
    monkeypatch.setenv(TOKEN_VARIABLE, "long-enough")
    assert token_of(settings(host=host)) == "long-enough"


@pytest.mark.parametrize("token", ["short", "with some spaces", "with\nbreak", "schlüssel-lang"])
def test_unusable_token_is_refused_without_printing_it(monkeypatch, token):
    monkeypatch.setenv(TOKEN_VARIABLE, token)
    with pytest.raises(ConfigError, match="ASCII") as caught:
        token_of(settings())
    assert token not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"gpus": 1.5}, "whole number"),
        ({"classes": [""]}, "classes"),
        ({"limits": {"upload_megabytes": 0}}, "limits.upload_megabytes"),
        ({"limits": {"uploads": 1}}, "limits.uploads"),
    ],
)
def test_bad_setting_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        settings(**values)
