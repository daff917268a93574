"""What PostgreSQL's crashes, refusals and switch-overs look like from the durable store."""

import asyncio
import traceback
from typing import Any

import pytest
from sqlalchemy.engine import make_url

from warden.core.errors import Unavailable
from warden.store.durable import open_durable
from warden.store.migrate import migrate
from warden.store.ports import Extension


async def test_a_crashed_server_is_unavailable_and_works_again_after_its_restart(postgres: Any) -> None:
    url = postgres.new_database()
    await migrate(url)
    durable = open_durable(url)
    await asyncio.gather(*(durable.add_extension(Extension(str(n), "r", {"MD5": "00"})) for n in range(8)))

    postgres.kill()
    try:
        for _ in range(3):
            with pytest.raises(Unavailable, match=r"^database postgresql://warden:"):
                await durable.add_extension(Extension("late", "r", {}))
        with pytest.raises(Unavailable, match=r"^database postgresql://warden:"):
            await migrate(url)
    finally:
        postgres.start()
    # The pool's connections are all dead; not one call may notice.
    assert await asyncio.gather(*(durable.revision() for _ in range(8))) == [8] * 8
    await durable.close()


async def test_a_crash_between_two_calls_is_not_noticed(postgres: Any) -> None:
    url = postgres.new_database()
    await migrate(url)
    durable = open_durable(url)
    assert await durable.revision() == 0
    postgres.kill()
    postgres.start()
    await durable.add_extension(Extension("1001", "r", {}))
    assert await durable.revision() == 1
    await durable.close()


async def test_a_wrong_password_is_told_without_repeating_it(postgres: Any) -> None:
    url = make_url(postgres.new_database()).set(password="wrong-but-secret")
    durable = open_durable(url)
    with pytest.raises(Unavailable, match="password authentication failed") as caught:
        await durable.revision()
    assert "wrong-but-secret" not in "".join(traceback.format_exception(caught.value))
    await durable.close()


async def test_a_server_that_takes_no_changes_is_unavailable_like_a_dead_one(postgres: Any) -> None:
    url = postgres.new_database()
    await migrate(url)
    database = make_url(url).database
    postgres.sql(url, f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    durable = open_durable(url)
    with pytest.raises(Unavailable):
        await durable.revision()
    postgres.sql(url, "SET default_transaction_read_only = off", f"ALTER DATABASE {database} RESET ALL")
    assert await durable.revision() == 0
    await durable.close()
