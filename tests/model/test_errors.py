"""What callers see of an error."""

from genstatus_server.model.errors import AccessDenied, InvalidRequest, LoginRequired


def test_error_has_the_message_of_its_kind() -> None:
    error = AccessDenied()
    assert error.body() == {"message": "User does not have permission to access that submission"}
    assert str(error) == error.message


def test_error_may_have_a_message_of_its_own() -> None:
    error = LoginRequired("Log in again")
    assert error.body() == {"message": "Log in again"}
    assert str(error) == "Log in again"
    assert LoginRequired().message == "Login Required"


def test_invalid_request_names_each_parameter_with_its_reasons() -> None:
    error = InvalidRequest("Two are wrong", {"file_type": ("unknown",), "timeout": ["negative", "no number"]})
    assert error.body() == {
        "message": "Two are wrong",
        "errors": {"file_type": ["unknown"], "timeout": ["negative", "no number"]},
    }
    assert str(error) == "Two are wrong"
