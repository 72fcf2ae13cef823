-- name: sidecars
SELECT s.id, s.organization_id, o.slug AS organization_slug, s.slug, s.disabled, s.draining, s.secret_hash,
       s.secret_prefix, s.build, s.last_seen_at, s.created_at
FROM sidecars AS s
JOIN organizations AS o ON o.id = s.organization_id
WHERE {condition};

-- name: insert_sidecar
INSERT INTO sidecars (organization_id, slug, disabled, secret_hash, secret_prefix)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (organization_id, slug) DO NOTHING
RETURNING id;

-- name: set_sidecar_secret
UPDATE sidecars SET secret_hash = $3, secret_prefix = $4 WHERE organization_id = $1 AND id = $2;

-- name: set_sidecar_disabled
UPDATE sidecars SET disabled = $3 WHERE organization_id = $1 AND id = $2;

-- name: set_sidecar_draining
UPDATE sidecars SET draining = $3 WHERE organization_id = $1 AND id = $2;

-- name: live_sessions
-- A closed session holds nothing and owes nothing.
SELECT s.sidecar_id, s.session_epoch, s.organization_id, o.slug AS organization_slug, s.state,
       s.settled_count, s.last_seen_at
FROM sessions AS s
JOIN organizations AS o ON o.id = s.organization_id
WHERE s.sidecar_organization_id = $1 AND s.sidecar_id = ANY($2::bigint[]) AND s.state <> 'closed'
ORDER BY s.sidecar_id, s.session_epoch;

-- name: held
SELECT a.session_epoch, b.slug AS budget_slug, w.start_at AS window_start_at, o.currency,
       a.granted_nanos, a.returned_nanos, a.settled_nanos, a.in_doubt_nanos, a.in_doubt_since,
       a.budget_window_id
FROM unnest($1::bigint[], $2::bigint[]) AS live (organization_id, session_epoch)
JOIN allowances AS a USING (organization_id, session_epoch)
JOIN organizations AS o ON o.id = a.organization_id
JOIN budget_windows AS w
    ON w.organization_id = a.organization_id AND w.id = a.budget_window_id
JOIN budgets AS b ON b.organization_id = w.organization_id AND b.id = w.budget_id
ORDER BY a.session_epoch, b.slug, w.start_at;
