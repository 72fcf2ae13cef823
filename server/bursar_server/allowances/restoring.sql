-- name: count_commit
UPDATE shards SET commit_count = commit_count + 1 WHERE id = $1 RETURNING commit_count;

-- name: proof_key
SELECT proof_key FROM shards WHERE id = $1;

-- name: lost_tails
SELECT lost_tails FROM shards WHERE id = $1 AND tail_lost_at > $2;

-- name: note_lost_tail
UPDATE shards SET lost_tails = lost_tails + 1, tail_lost_at = $2
WHERE id = $1 AND (tail_lost_at IS NULL OR tail_lost_at < $3)
RETURNING lost_tails;

-- name: skip_numbers
-- By chance, so that two who begin from the same state do not go on with the same numbers.
SELECT setval('session_epochs', nextval('session_epochs') + $1 + floor(random() * $2)::bigint),
       setval('ids', nextval('ids') + $1 + floor(random() * $2)::bigint)
WHERE EXISTS (SELECT FROM sessions);

-- name: skip_to_epoch
SELECT setval('session_epochs', greatest(nextval('session_epochs'), $1));

-- name: currency_of
SELECT currency FROM organizations WHERE id = $1;

-- name: restore_session
INSERT INTO sessions (organization_id, session_epoch, sidecar_organization_id, sidecar_id, boot_id,
                      state, created_at, last_seen_at, quiet_since_ms)
VALUES ($1, $2, $3, $4, $5, $6, $7, $7, $8)
ON CONFLICT DO NOTHING
RETURNING session_epoch;

-- name: boot_of_session
SELECT boot_id FROM sessions WHERE organization_id = $1 AND session_epoch = $2;

-- name: restore_window
INSERT INTO budget_windows (organization_id, id, budget_id, start_at, end_at, limit_nanos,
                            budget_version, ceiling_nanos, hard, shadow, created_at)
SELECT organization_id, $2, id, $4, $5, limit_nanos, version, limit_nanos, enforcement = 'hard',
       enforcement = 'shadow', $6
FROM budgets
WHERE organization_id = $1 AND id = $3
ON CONFLICT DO NOTHING;

-- name: freeze_windows
UPDATE budget_windows SET frozen_at = $2 WHERE id = ANY($1::bigint[]);
