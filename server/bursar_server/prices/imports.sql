-- name: lock_prices
-- Imports and other changes of one organization's prices wait for each other; so do its other
-- changes of policy, so that what takes long is done before. Rows that refer to it do not wait.
SELECT 1 FROM organizations WHERE id = $1 FOR NO KEY UPDATE;

-- name: imported_list
-- The newest version of the imported list, whatever it holds.
SELECT id, version, source, created_at FROM price_lists
WHERE organization_id = $1 AND layer = 'imported'
ORDER BY created_at DESC, id DESC
LIMIT 1;

-- name: imported_prices
-- Those that hold, and those that will. One that holds has no beginning here.
SELECT id, jsonb_strip_nulls(price || jsonb_build_object(
           'effective_at', CASE WHEN effective_at > clock_timestamp() THEN effective_at END,
           'expires_at', expires_at))::text AS price
FROM prices
WHERE organization_id = $1 AND layer = 'imported' AND superseded_at IS NULL
  AND (expires_at IS NULL OR expires_at > clock_timestamp())
ORDER BY provider, model, effective_at;

-- name: insert_imported_list
-- One that comes back after another is the newest again.
INSERT INTO price_lists (organization_id, layer, version, source, created_at)
VALUES ($1, 'imported', $2, $3, clock_timestamp())
ON CONFLICT (organization_id, layer, version)
DO UPDATE SET source = excluded.source, created_at = excluded.created_at
RETURNING id;

-- name: end_imported_prices
-- What holds ends; what would have held later is no longer believed.
UPDATE prices
SET expires_at = CASE WHEN effective_at <= $3 THEN $3 ELSE expires_at END,
    superseded_at = CASE WHEN effective_at > $3 THEN $3 END
WHERE organization_id = $1 AND layer = 'imported' AND superseded_at IS NULL
  AND id = ANY($2::bigint[]);

-- name: sync_state
SELECT url_hash, attempted_at, outcome, detail, succeeded_at, failures, next_at, claim
FROM price_syncs WHERE organization_id = $1;

-- name: claim_sync
-- Whoever changes the row looks; nobody else does before `next_at`, which is after the longest look.
-- Another address, or none so far, is looked at at once.
INSERT INTO price_syncs (organization_id, url_hash, attempted_at, next_at, claim)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (organization_id) DO UPDATE
SET etag = CASE WHEN price_syncs.url_hash = excluded.url_hash THEN price_syncs.etag ELSE '' END,
    failures = CASE WHEN price_syncs.url_hash = excluded.url_hash
                    THEN price_syncs.failures ELSE 0 END,
    url_hash = excluded.url_hash,
    attempted_at = excluded.attempted_at,
    next_at = excluded.next_at,
    claim = excluded.claim
WHERE price_syncs.next_at <= $3 OR price_syncs.url_hash <> excluded.url_hash
RETURNING etag, version, failures;

-- name: finish_sync
-- Only the one who claimed it last says what came of it.
UPDATE price_syncs
SET etag = $3, version = coalesce(nullif($9, ''), version), outcome = $4, detail = $5,
    failures = $6, next_at = $7, succeeded_at = coalesce($8, succeeded_at)
WHERE organization_id = $1 AND claim = $2
RETURNING organization_id;

-- name: insert_event
INSERT INTO events (organization_id, kind, summary, amount_nanos, currency, created_at)
SELECT id, $2, $3, 0, currency, $4 FROM organizations WHERE id = $1;
