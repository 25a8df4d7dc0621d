"""The address of a PostgreSQL database: what is taken, what is told, and that no password gets out."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acmeca.storage.postgres_url import PostgresUrl
from acmeca.storage.transfer import Place


@pytest.mark.parametrize(
    ("text", "user", "password", "hosts", "database"),
    [
        ("postgresql://db/ca", None, None, (("db", 5432),), "ca"),
        ("postgres://db:5433/ca", None, None, (("db", 5433),), "ca"),
        ("postgresql://me@db/ca", "me", None, (("db", 5432),), "ca"),
        ("postgresql://me:@db/ca", "me", None, (("db", 5432),), "ca"),
        ("postgresql://m%40e:s%2Fe%3Ac@db/c%20a", "m@e", "s/e:c", (("db", 5432),), "c a"),
        ("postgresql://me@db1,db2:5433,[fd00::1],[::1]:6000/ca", "me", None,
         (("db1", 5432), ("db2", 5433), ("fd00::1", 5432), ("::1", 6000)), "ca"),
        ("postgresql:///ca", None, None, (), "ca"),
        ("postgresql:///ca?host=/run/postgresql", None, None, (("/run/postgresql", 5432),), "ca"),
        ("postgresql://me@/ca?host=/a,/b&port=6000", "me", None, (("/a", 6000), ("/b", 6000)), "ca"),
        ("postgresql://%2Frun%2Fpostgresql/ca", None, None, (("/run/postgresql", 5432),), "ca"),
    ],
)  # fmt: skip
def test_taken(
    text: str, user: str | None, password: str | None, hosts: tuple[tuple[str, int], ...], database: str
) -> None:
    url = PostgresUrl.parse(text)
    assert (url.user, url.password, url.hosts, url.database) == (user, password, hosts, database)
    assert PostgresUrl.parse(url.redacted) == PostgresUrl(user, None, hosts, database, url.options)
    assert PostgresUrl.parse(url.dsn) == PostgresUrl(user, password, (), database, url.options)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("mysql://db/ca", "postgresql://acmeca@"),
        ("postgresql:db/ca", "postgresql://acmeca@"),
        ("postgresql://db", "name of one database"),
        ("postgresql://db/", "name of one database"),
        ("postgresql://db/a/b", "name of one database"),
        ("postgresql://db:x/ca", "no host, nor host:port"),
        ("postgresql://db:0/ca", "65535"),
        ("postgresql://db:65536/ca", "65535"),
        ("postgresql://fd00::1/ca", "brackets"),
        ("postgresql://[fd00/ca", "no URL"),
        ("postgresql://a,,b/ca", "no host"),
        ("postgresql://db /ca", "%20"),
        ("postgresql://db/ca?password=hunter2", "PGPASSFILE"),
        ("postgresql://db/ca?sslmode=maybe", "verify-full"),
        ("postgresql://db/ca?sslmode=require&sslmode=disable", "twice"),
        ("postgresql://db/ca?synchronous_commit=off", "'synchronous_commit'"),
        ("postgresql://db/ca?options=-cfsync%3Doff", "'options'"),
        ("postgresql://db/ca?x", "no URL"),
        ("postgresql://db/ca#x", "%23"),
        ("postgresql://db/ca?host=/run&port=http", "65535"),
    ],
)
def test_refused(text: str, told: str) -> None:
    with pytest.raises(ValueError) as caught:
        PostgresUrl.parse(text)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    "secret", ["hunter2", "hun/ter2", "hun?ter2", "hun#ter2", "hun@ter2", "hun:ter2", "hun[ter2", "12/ter2"]
)
def test_a_password_never_gets_out(secret: str) -> None:
    """Whatever it holds, quoted or not: in no message, no representation, no redacted form."""
    try:
        url = PostgresUrl.parse(f"postgresql://joe:{secret}@db/ca")
    except ValueError as error:
        shown = str(error)
    else:
        shown = repr(url) + url.redacted
    assert "ter2" not in shown


@pytest.mark.parametrize("text", ["joe:hunter2/ca", "joe:hunter2:5432/ca", "/ca?host=joe:hunter2"])
def test_neither_does_one_where_the_host_should_stand(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        PostgresUrl.parse(f"postgresql://{text}")
    assert "ter2" not in str(caught.value)


def test_a_place_is_shown_without_its_password(tmp_path: Path) -> None:
    assert "hunter2" not in repr(Place.parse("postgresql://joe:hunter2@db/ca", base=tmp_path))


@given(
    st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=8),
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=8),
)
def test_any_password_survives_quoting(user: str, password: str) -> None:
    url = PostgresUrl(user, password, (("db", 5432),), "ca", ())
    parsed = PostgresUrl.parse(url.dsn)
    assert (parsed.user, parsed.password) == (user, password)
