"""What callers make up must not cost the figures of what is served."""

import http.client
import re

from tests.conftest import Server
from tests.serving.conftest import ask

REFUSED = ':tensorflow:serving:request_count{model_name="digits",status="INVALID_ARGUMENT"} '
MADE_UP = 'request_count{model_name="made-up-'


def test_names_of_models_that_are_none_are_counted_up_to_a_thousand_and_models_always(server: Server) -> None:
    connection = http.client.HTTPConnection(server.rest.removeprefix("http://"), timeout=30)
    for number in range(1050):
        connection.request("POST", f"/v1/models/made-up-{number}:predict", b"{}")
        connection.getresponse().read()
    connection.request("POST", f"/v1/models/made-up-{'x' * 1000}:predict", b"{}")
    assert connection.getresponse().status == 404
    connection.close()

    def refused() -> int:
        assert ask(server, "/v1/models/digits:predict", {"instances": [[1.0]]})[0] == 400
        return int(re.findall(rf"{re.escape(REFUSED)}(\d+)", ask(server, "/metrics")[1])[0])

    before = refused()
    assert refused() == before + 1
    assert "made-up-x" not in ask(server, "/metrics")[1]
    assert 900 < ask(server, "/metrics")[1].count(MADE_UP) <= 1000
