-- name: budgets_by_scopes
SELECT b.id, b.slug, b.organization_id, b.display_name, b.scope_kind, b.scope_id,
       CASE b.scope_kind
           WHEN 'team' THEN 'teams/' || t.slug
           WHEN 'project' THEN 'projects/' || p.slug
           WHEN 'user' THEN 'users/' || u.slug
           WHEN 'key' THEN 'keys/' || k.slug
           ELSE 'organizations/' || o.slug
       END AS scope_name,
       b.models, b.providers, b.limit_nanos, o.currency, b.window_kind, b.window_unit,
       b.window_count, b.window_anchor, b.window_start_at, b.time_zone, b.enforcement, b.disabled,
       b.version, b.created_at, b.updated_at,
       ARRAY(
           SELECT r FROM budget_raises AS r
           WHERE r.organization_id = b.organization_id AND r.budget_id = b.id
             AND r.phase <> 'over'
           ORDER BY r.id
       ) AS raises
FROM budgets b
JOIN organizations o ON o.id = b.organization_id
LEFT JOIN teams t ON b.scope_kind = 'team' AND t.organization_id = b.organization_id
    AND t.id = b.scope_id
LEFT JOIN projects p ON b.scope_kind = 'project' AND p.organization_id = b.organization_id
    AND p.id = b.scope_id
LEFT JOIN users u ON b.scope_kind = 'user' AND u.organization_id = b.organization_id
    AND u.id = b.scope_id
LEFT JOIN keys k ON b.scope_kind = 'key' AND k.organization_id = b.organization_id
    AND k.id = b.scope_id
WHERE b.organization_id = $1
  AND (b.scope_kind, b.scope_id) IN (SELECT * FROM unnest($2::text[], $3::bigint[]))
ORDER BY b.id;

-- name: budgets_by_ids
SELECT b.id, b.slug, b.organization_id, b.display_name, b.scope_kind, b.scope_id,
       CASE b.scope_kind
           WHEN 'team' THEN 'teams/' || t.slug
           WHEN 'project' THEN 'projects/' || p.slug
           WHEN 'user' THEN 'users/' || u.slug
           WHEN 'key' THEN 'keys/' || k.slug
           ELSE 'organizations/' || o.slug
       END AS scope_name,
       b.models, b.providers, b.limit_nanos, o.currency, b.window_kind, b.window_unit,
       b.window_count, b.window_anchor, b.window_start_at, b.time_zone, b.enforcement, b.disabled,
       b.version, b.created_at, b.updated_at,
       ARRAY(
           SELECT r FROM budget_raises AS r
           WHERE r.organization_id = b.organization_id AND r.budget_id = b.id
             AND r.phase <> 'over'
           ORDER BY r.id
       ) AS raises
FROM budgets b
JOIN organizations o ON o.id = b.organization_id
LEFT JOIN teams t ON b.scope_kind = 'team' AND t.organization_id = b.organization_id
    AND t.id = b.scope_id
LEFT JOIN projects p ON b.scope_kind = 'project' AND p.organization_id = b.organization_id
    AND p.id = b.scope_id
LEFT JOIN users u ON b.scope_kind = 'user' AND u.organization_id = b.organization_id
    AND u.id = b.scope_id
LEFT JOIN keys k ON b.scope_kind = 'key' AND k.organization_id = b.organization_id
    AND k.id = b.scope_id
WHERE b.organization_id = $1 AND b.id = ANY($2::bigint[])
ORDER BY b.id;

-- name: budget_page
-- The ids of a page; a scope kind of '' asks for all of them.
SELECT id, slug FROM budgets
WHERE organization_id = $1 AND slug > $2 AND ($3 = '' OR (scope_kind = $3 AND scope_id = $4))
ORDER BY slug
LIMIT $5;

-- name: budget_id_by_slug
SELECT id FROM budgets WHERE organization_id = $1 AND slug = $2;

-- name: lock_budget
SELECT id, version, limit_nanos, display_name, disabled FROM budgets
WHERE organization_id = $1 AND slug = $2
FOR UPDATE;

-- name: scope_ids
-- The ids of a scope by its kind and slug, in one organization.
SELECT CASE $2
    WHEN 'team' THEN (SELECT id FROM teams WHERE organization_id = $1 AND slug = $3)
    WHEN 'project' THEN (SELECT id FROM projects WHERE organization_id = $1 AND slug = $3)
    WHEN 'user' THEN (SELECT id FROM users WHERE organization_id = $1 AND slug = $3)
    WHEN 'key' THEN (SELECT id FROM keys WHERE organization_id = $1 AND slug = $3)
END AS id;

-- name: insert_budget
INSERT INTO budgets (
    organization_id, slug, display_name, scope_kind, scope_id, models, providers, limit_nanos,
    window_kind, window_unit, window_count, window_anchor, window_start_at, time_zone,
    enforcement, disabled
)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
ON CONFLICT (organization_id, slug) DO NOTHING
RETURNING id;

-- name: update_budget
UPDATE budgets
SET display_name = $3, limit_nanos = $4, disabled = $5, version = version + 1,
    updated_at = clock_timestamp()
WHERE organization_id = $1 AND id = $2;

-- name: insert_budget_version
INSERT INTO budget_versions (
    organization_id, budget_id, version, display_name, limit_nanos, disabled, actor
)
SELECT organization_id, id, version, display_name, limit_nanos, disabled, $3 FROM budgets
WHERE organization_id = $1 AND id = $2;

-- name: is_frozen
SELECT EXISTS (
    SELECT FROM budget_windows AS w
    WHERE w.organization_id = $1 AND w.budget_id = $2 AND w.frozen_at IS NOT NULL
      AND NOT EXISTS (
          SELECT FROM thaws AS t
          WHERE t.organization_id = w.organization_id AND t.budget_id = w.budget_id
            AND t.created_at >= w.frozen_at
      )
);

-- name: thaw
INSERT INTO thaws (organization_id, budget_id, reason, actor, created_at)
VALUES ($1, $2, $3, $4, $5);

-- name: budget_has_windows
SELECT EXISTS (SELECT FROM budget_windows WHERE organization_id = $1 AND budget_id = $2);

-- name: delete_budget
DELETE FROM budgets WHERE organization_id = $1 AND id = $2;

-- name: holders
-- What sessions hold of a window, the largest first.
SELECT s.slug AS sidecar_slug, o.slug AS organization_slug, a.session_epoch, e.last_seen_at,
       greatest(0, a.granted_nanos - a.returned_nanos - a.settled_nanos - a.in_doubt_nanos)
           AS outstanding_nanos,
       a.in_doubt_nanos, a.in_doubt_since
FROM allowances AS a
JOIN sessions AS e USING (organization_id, session_epoch)
JOIN sidecars AS s ON s.organization_id = e.sidecar_organization_id AND s.id = e.sidecar_id
JOIN organizations AS o ON o.id = s.organization_id
WHERE a.organization_id = $1 AND a.budget_window_id = $2
  AND a.granted_nanos - a.returned_nanos - a.settled_nanos > 0
ORDER BY a.granted_nanos - a.returned_nanos - a.settled_nanos DESC, a.session_epoch
LIMIT $3;

-- name: exposure
-- Of every organization: what its sidecars hold, and what open windows have overrun.
SELECT o.slug AS organization_slug, o.currency,
       coalesce(sum(w.outstanding_nanos), 0)::bigint AS outstanding_nanos,
       coalesce(sum(w.in_doubt_nanos), 0)::bigint AS in_doubt_nanos,
       coalesce(sum(w.overrun_nanos) FILTER (WHERE w.end_at IS NULL OR w.end_at > $1), 0)::bigint
           AS overrun_nanos,
       (SELECT min(a.in_doubt_since) FROM allowances AS a
        WHERE a.organization_id = o.id AND a.in_doubt_since IS NOT NULL)
           AS in_doubt_since
FROM organizations AS o
LEFT JOIN budget_windows AS w ON w.organization_id = o.id
GROUP BY o.id
ORDER BY o.slug;

-- name: current_windows
SELECT DISTINCT ON (budget_id)
    id, budget_id, start_at, end_at, limit_nanos, settled_nanos, outstanding_nanos,
    in_doubt_nanos, overrun_nanos, would_refuse_count, would_refuse_nanos,
    frozen_at IS NOT NULL AND NOT EXISTS (
        SELECT FROM thaws AS t
        WHERE t.organization_id = budget_windows.organization_id
          AND t.budget_id = budget_windows.budget_id AND t.created_at >= frozen_at
    ) AS frozen
FROM budget_windows
WHERE organization_id = $1 AND budget_id = ANY($2::bigint[]) AND split_value = ''
  AND start_at <= $3 AND (end_at IS NULL OR end_at > $3)
ORDER BY budget_id, start_at DESC;
