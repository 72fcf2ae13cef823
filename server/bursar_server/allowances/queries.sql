-- name: take_shard
-- Later than any before, also where the database forgot some.
UPDATE shards
SET owner_epoch = greatest(owner_epoch + 1,
                           (extract(epoch FROM clock_timestamp()) * 1000)::bigint),
    owner = $2, updated_at = now(),
    -- Two random UUIDs: 244 random bits.
    proof_key = coalesce(proof_key, decode(
        replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex'))
WHERE id = $1
RETURNING owner_epoch;

-- name: budgets_of
SELECT id FROM budgets WHERE organization_id = $1 ORDER BY id LIMIT $2;

-- name: served_ms
SELECT served_ms FROM shards WHERE id = $1;

-- name: save_served_ms
UPDATE shards SET served_ms = greatest(served_ms, $2) WHERE id = $1;

-- name: sessions_due
SELECT session_epoch
FROM sessions
JOIN organizations AS o ON o.id = sessions.organization_id
WHERE o.shard_id = $1
  AND sessions.state <> 'closed' AND sessions.decision IS NULL AND sessions.stage <> 'over'
  AND (sessions.stage = 'heard' AND sessions.quiet_since_ms <= $2
       OR sessions.stage = 'doubted' AND sessions.quiet_since_ms <= $3)
ORDER BY sessions.quiet_since_ms, session_epoch
LIMIT $4;

-- name: decide_by_time
INSERT INTO resolutions (organization_id, session_epoch, decision, reason, actor, created_at,
                         applied_at, held)
VALUES ($1, $2, 'spent', $3, $4, $5, $5, $6);

-- name: check_shard
-- All that a step reads has an index. Plans are kept from when tables were empty until the next
-- ANALYZE: none of them may read a table whole, which would take longer with each call.
SELECT owner_epoch, set_config('idle_in_transaction_session_timeout', $2::text, true),
       set_config('enable_seqscan', 'off', true)
FROM shards WHERE id = $1 FOR SHARE;

-- name: resume_session
-- Its Hello makes what it holds valid anew. A fail-over of the database may have forgotten policy
-- versions: one that will be given again is not acknowledged yet.
UPDATE sessions AS s
SET last_seen_at = greatest(s.last_seen_at, $4),
    policy_version = least(s.policy_version, o.policy_version)
FROM organizations AS o
WHERE o.id = $1 AND s.organization_id = $1 AND s.sidecar_id = $2 AND s.boot_id = $3
RETURNING s.session_epoch, s.state, s.applied_seq;

-- name: sessions_of_sidecar
SELECT organization_id, session_epoch, state, applied_seq, settled_count, highest_settled_n,
       last_n, journal
FROM sessions
WHERE sidecar_organization_id = $1 AND sidecar_id = $2 AND session_epoch = ANY($3::bigint[]);

-- name: open_session
-- All that it will be told is at least as new as the policy of now.
INSERT INTO sessions (organization_id, session_epoch, sidecar_organization_id, sidecar_id, boot_id,
                      created_at, last_seen_at, policy_version, quiet_since_ms)
SELECT $1, nextval('session_epochs'), $2, $3, $4, $5, $5, policy_version, $6
FROM organizations WHERE id = $1
ON CONFLICT (organization_id, sidecar_id, boot_id) DO NOTHING
RETURNING session_epoch;

-- name: fence_session
UPDATE sessions
SET state = CASE WHEN state = 'open' THEN 'fenced' ELSE state END,
    -- Several may claim a session when a journal was copied: whoever lacks its end is believed.
    journal = CASE WHEN journal = 'truncated' THEN journal ELSE coalesce($3, journal) END
WHERE organization_id = $1 AND session_epoch = $2;

-- name: see_sidecar
UPDATE sidecars SET build = $3, last_seen_at = $4 WHERE organization_id = $1 AND id = $2
RETURNING draining;

-- name: policy_versions
SELECT id, policy_version FROM organizations WHERE id = ANY($1::bigint[]);

-- name: policy_changes
SELECT c.organization_id, c.policy_version, c.kind, c.subject_id, c.secret_hashes
FROM unnest($1::bigint[], $2::bigint[]) AS told (organization_id, policy_version)
JOIN policy_changes AS c
  ON c.organization_id = told.organization_id AND c.policy_version > told.policy_version
ORDER BY c.organization_id, c.policy_version;

-- name: sessions_for_tick
SELECT organization_id, session_epoch, state, applied_seq, settled_count, highest_settled_n,
       last_n, journal, lost_count, decision, policy_version, policy_last_n, quiet_since_ms, stage
FROM sessions
WHERE session_epoch = ANY($1::bigint[])
ORDER BY organization_id, session_epoch
FOR UPDATE;

-- name: save_sessions
-- Seen is who spoke: not a session that another life settles for, or that was resolved.
UPDATE sessions AS s
SET state = c.state, applied_seq = greatest(s.applied_seq, c.applied_seq),
    settled_count = c.settled_count, highest_settled_n = c.highest_settled_n,
    last_n = c.last_n, journal = c.journal, lost_count = c.lost_count,
    decision = c.decision, policy_version = c.policy_version, policy_last_n = c.policy_last_n,
    quiet_since_ms = c.quiet_since_ms, stage = c.stage,
    last_seen_at = CASE WHEN c.applied_seq > s.applied_seq THEN $11 ELSE s.last_seen_at END
FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[],
            $7::bigint[], $8::text[], $9::bigint[], $10::text[], $12::bigint[], $13::bigint[],
            $14::bigint[], $15::text[])
     AS c (organization_id, session_epoch, state, applied_seq, settled_count, highest_settled_n,
           last_n, journal, lost_count, decision, policy_version, policy_last_n, quiet_since_ms,
           stage)
WHERE s.organization_id = c.organization_id AND s.session_epoch = c.session_epoch;

-- name: windows_held_by
SELECT DISTINCT budget_window_id FROM allowances WHERE session_epoch = ANY($1::bigint[]);

-- name: current_windows
SELECT DISTINCT ON (budget_id) id, budget_id, start_at, end_at
FROM budget_windows
WHERE organization_id = $1 AND budget_id = ANY($2::bigint[]) AND split_value = ''
  AND start_at <= $3
ORDER BY budget_id, start_at DESC;

-- name: windows_by_ids
SELECT id, organization_id, budget_id, start_at, end_at FROM budget_windows
WHERE organization_id = $1 AND id = ANY($2::bigint[]);

-- name: make_window
INSERT INTO budget_windows (id, organization_id, budget_id, start_at, end_at, limit_nanos,
                            budget_version, ceiling_nanos, hard, settled_nanos, created_at, shadow)
VALUES ($11, $1, $2, $3, $4, $5, $6, greatest($5::bigint, $8::bigint), $7, $8, $9, $10)
ON CONFLICT (organization_id, budget_id, split_value, start_at) DO UPDATE
SET end_at = budget_windows.end_at
RETURNING id, budget_id, start_at, end_at;

-- name: open_with
INSERT INTO opening_lines (organization_id, budget_window_id, amount_nanos, entry_count, created_at)
VALUES ($1, $2, $3, $4, $5);

-- name: lock_windows
SELECT id, organization_id, budget_id, hard, limit_nanos, ceiling_nanos, settled_nanos,
       outstanding_nanos, in_doubt_nanos, overrun_nanos, budget_version, start_at, end_at,
       shadow, would_refuse_count, would_refuse_nanos,
       frozen_at IS NOT NULL AND NOT EXISTS (
           SELECT FROM thaws AS t
           WHERE t.organization_id = w.organization_id AND t.budget_id = w.budget_id
             AND t.created_at >= w.frozen_at
       ) AS frozen
FROM budget_windows AS w
WHERE id = ANY($1::bigint[])
ORDER BY id
FOR UPDATE OF w;

-- name: windows_of_budgets
SELECT id FROM budget_windows
WHERE organization_id = $1 AND budget_id = ANY($2::bigint[])
  AND (end_at IS NULL OR end_at > $3 OR outstanding_nanos > 0);

-- name: budgets_with_stale_windows
SELECT DISTINCT w.organization_id, w.budget_id
FROM budget_windows AS w
JOIN budgets AS b ON b.organization_id = w.organization_id AND b.id = w.budget_id
WHERE w.budget_version <> b.version AND ($2::bigint IS NULL OR w.organization_id = $2)
  AND (w.end_at IS NULL OR w.end_at > $1 OR w.outstanding_nanos > 0);

-- name: totals
SELECT session_epoch, budget_window_id, granted_nanos, returned_nanos, settled_nanos,
       in_doubt_nanos, lost_nanos
FROM allowances
WHERE (session_epoch, budget_window_id) IN (
    SELECT * FROM unnest($1::bigint[], $2::bigint[])
);

-- name: totals_of_sessions
SELECT session_epoch, budget_window_id, granted_nanos, returned_nanos, settled_nanos,
       in_doubt_nanos, lost_nanos
FROM allowances
WHERE session_epoch = ANY($1::bigint[]);

-- name: save_windows
UPDATE budget_windows AS w
SET limit_nanos = c.limit_nanos, ceiling_nanos = c.ceiling_nanos,
    settled_nanos = c.settled_nanos, outstanding_nanos = c.outstanding_nanos,
    in_doubt_nanos = c.in_doubt_nanos, overrun_nanos = c.overrun_nanos,
    budget_version = c.budget_version, would_refuse_count = c.would_refuse_count,
    would_refuse_nanos = c.would_refuse_nanos
FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[],
            $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[])
     AS c (organization_id, id, limit_nanos, ceiling_nanos, settled_nanos, outstanding_nanos,
           in_doubt_nanos, overrun_nanos, budget_version, would_refuse_count, would_refuse_nanos)
WHERE w.organization_id = c.organization_id AND w.id = c.id;

-- name: save_totals
INSERT INTO allowances AS a (organization_id, session_epoch, budget_window_id, granted_nanos,
                             returned_nanos, settled_nanos, in_doubt_nanos, lost_nanos,
                             in_doubt_since)
SELECT *, CASE WHEN in_doubt_nanos > 0 THEN $9::timestamptz END
FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[],
            $7::bigint[], $8::bigint[])
     AS c (organization_id, session_epoch, budget_window_id, granted_nanos, returned_nanos,
           settled_nanos, in_doubt_nanos, lost_nanos)
ON CONFLICT (organization_id, session_epoch, budget_window_id) DO UPDATE
SET granted_nanos = excluded.granted_nanos, returned_nanos = excluded.returned_nanos,
    settled_nanos = excluded.settled_nanos, in_doubt_nanos = excluded.in_doubt_nanos,
    lost_nanos = excluded.lost_nanos,
    in_doubt_since = CASE WHEN excluded.in_doubt_nanos > 0
                          THEN coalesce(a.in_doubt_since, excluded.in_doubt_since) END;

-- name: draw_set
INSERT INTO draw_sets (organization_id, budget_window_ids, armed_window_ids) VALUES ($1, $2, $3)
ON CONFLICT (organization_id, budget_window_ids, armed_window_ids) DO UPDATE
SET budget_window_ids = draw_sets.budget_window_ids
RETURNING id;

-- name: save_events
INSERT INTO events (organization_id, kind, budget_id, budget_window_id, summary, amount_nanos,
                    currency, created_at)
SELECT *, $8::timestamptz FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[],
                                     $5::text[], $6::bigint[], $7::text[]);

-- name: quarantine
INSERT INTO quarantined_frames (organization_id, session_epoch, seq, frame, fault, created_at)
VALUES ($1, $2, $3, $4, 'refused by its content', $5);

-- name: quarantine_event
INSERT INTO events (organization_id, kind, summary, amount_nanos, currency, created_at)
VALUES ($1, 'frame_quarantined', $2, 0, $3, $4);

-- name: receive_frame
UPDATE sessions
SET applied_seq = greatest(applied_seq, $3), last_seen_at = $4,
    policy_version = greatest(policy_version, $5), policy_last_n = greatest(policy_last_n, $6)
WHERE organization_id = $1 AND session_epoch = $2;

-- name: session_allowances
SELECT a.budget_window_id, a.granted_nanos, a.returned_nanos, w.budget_id, w.hard, w.start_at,
       w.end_at, w.limit_nanos, w.settled_nanos
FROM allowances AS a
JOIN budget_windows AS w
  ON w.organization_id = a.organization_id AND w.id = a.budget_window_id
WHERE a.organization_id = $1 AND a.session_epoch = $2
  AND (w.end_at IS NULL OR w.end_at > $3 OR a.granted_nanos > a.returned_nanos + a.settled_nanos);

-- name: spender_of_key
SELECT id, team_id, project_id, user_id FROM keys
WHERE organization_id = $1 AND id = ANY($2::bigint[]);

-- name: unapplied_resolutions
SELECT id FROM resolutions WHERE applied_at IS NULL;

-- name: resolutions_for_tick
SELECT r.id, r.organization_id, r.session_epoch, r.decision,
       s.state = 'open' AND s.last_seen_at > r.created_at AS returned
FROM resolutions AS r
JOIN sessions AS s USING (organization_id, session_epoch)
WHERE r.id = ANY($1::bigint[]) AND r.applied_at IS NULL
ORDER BY r.id
FOR UPDATE OF r;

-- name: save_resolution
UPDATE resolutions SET applied_at = $3, refusal = $4, held = $5
WHERE organization_id = $1 AND id = $2;

-- name: books_of_sessions
SELECT s.session_epoch, o.slug AS spender, mine.currency
FROM sessions AS s
JOIN organizations AS mine ON mine.id = s.organization_id
JOIN organizations AS o ON o.id = s.sidecar_organization_id
WHERE s.session_epoch = ANY($1::bigint[]);
