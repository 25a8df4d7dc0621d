"""Which certificate took another one's place (RFC 9773 §5).

Rule 1: a certificate is being replaced by one order at most: bodies of writes run one after another, so that whoever asks here and
inserts an order in the same body is alone.
Rule 2: an order that has failed, or that nobody finished in time, replaces nothing any more.
Rule 3: the certificate that was replaced says so itself, from the moment at which the other one was signed: orders are deleted some time
after their end, and that must not make it replaceable again.
"""

from datetime import datetime

from acmeca.acme.renewal import CertificateId
from acmeca.acme.states import ORDER_MOVES, OrderStatus, require_move
from acmeca.storage.database import Entry, Reader, Transaction
from acmeca.storage.errors import AlreadyReplacedError
from acmeca.storage.times import to_seconds


async def is_replaced(reader: Reader, identifier: CertificateId, *, at: datetime) -> bool:
    """Whether an order has replaced the certificate, or may still do so."""
    certificate = await reader.fetch_one(
        "SELECT replaced_by FROM certificates WHERE serial = $1", identifier.serial_hex
    )
    if certificate is not None and certificate["replaced_by"] is not None:
        return True
    order = await reader.fetch_one(
        "SELECT 1 FROM orders WHERE replaces = $1 AND (status IN ('processing', 'valid')"
        " OR (status IN ('pending', 'ready') AND expires_at > $2)) LIMIT 1",
        str(identifier),
        to_seconds(at),
    )
    return order is not None


async def require_unreplaced(tx: Transaction, identifier: str, *, at: datetime) -> int:
    """Raises `AlreadyReplacedError` for a certificate that another order replaces (rule 1).

    What nobody finished in time is made invalid here, and not only taken for it: a process whose clock is behind could go on with
    it. Returns how many orders were.
    """
    require_move(ORDER_MOVES, OrderStatus.PENDING, OrderStatus.INVALID)
    require_move(ORDER_MOVES, OrderStatus.READY, OrderStatus.INVALID)
    if await is_replaced(tx, CertificateId.parse(identifier), at=at):
        raise AlreadyReplacedError("an order replaces that certificate already")
    return await tx.execute(
        "UPDATE orders SET status = 'invalid' WHERE replaces = $1 AND status IN ('pending', 'ready')", identifier
    )


async def complete_replacing(tx: Transaction, order_id: str, certificate_id: str) -> bool:
    """Make an order valid that replaces a certificate, and mark that one (rule 3); False when the order is processing no longer."""
    changed = await tx.execute(
        "UPDATE orders SET status = 'valid', certificate_id = $1 WHERE id = $2 AND status = 'processing'",
        certificate_id,
        order_id,
    )
    if changed != 1:
        return False
    order = await tx.fetch_one("SELECT replaces FROM orders WHERE id = $1", order_id)
    if order is not None and order["replaces"] is not None:
        await _mark_replaced(tx, CertificateId.parse(order["replaces"]).serial_hex, certificate_id)
    return True


async def _mark_replaced(tx: Transaction, serial: str, certificate_id: str) -> None:
    if await place_replacement(tx, serial, certificate_id):
        tx.journal(Entry("replacement", {"serial": serial, "replaced_by": certificate_id}))


async def place_replacement(tx: Transaction, serial: str, certificate_id: str) -> bool:
    """Note which certificate took the place of another; False when that one is not there, or was replaced before."""
    changed = await tx.execute(
        "UPDATE certificates SET replaced_by = $1 WHERE serial = $2 AND replaced_by IS NULL", certificate_id, serial
    )
    return changed == 1
