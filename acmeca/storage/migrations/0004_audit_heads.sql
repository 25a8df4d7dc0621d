-- Ends of the audit's chains, signed: what the file of heads in each data directory holds too. Here the others' travel.
CREATE TABLE audit_heads (
    writer TEXT NOT NULL,
    sequence BIGINT NOT NULL,
    hash BLOB NOT NULL,
    signed_at BIGINT NOT NULL,
    public_key BLOB NOT NULL,                          -- Ed25519, 32 raw octets
    signature BLOB NOT NULL,
    PRIMARY KEY (writer, sequence)
);
