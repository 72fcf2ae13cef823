-- name: insert_raise
INSERT INTO budget_raises (organization_id, slug, budget_id, amount_nanos, start_at, end_at, reason,
                           actor, created_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
RETURNING id;

-- name: lock_raise
SELECT id FROM budget_raises WHERE organization_id = $1 AND slug = $2 FOR UPDATE;

-- name: raise_by_slug
SELECT id FROM budget_raises WHERE organization_id = $1 AND slug = $2;

-- name: raises_by_ids
SELECT r.id, r.slug, r.budget_id, b.slug AS budget_slug, r.amount_nanos, o.currency, r.start_at,
       r.end_at, r.cancelled_at, r.reason, r.actor, r.phase, r.created_at
FROM budget_raises AS r
JOIN budgets AS b ON b.organization_id = r.organization_id AND b.id = r.budget_id
JOIN organizations AS o ON o.id = r.organization_id
WHERE r.organization_id = $1 AND r.id = ANY($2::bigint[])
ORDER BY r.id DESC;

-- name: raise_page
-- The ids of a page, the newest first; 0 asks for all budgets, and for the first page.
SELECT id FROM budget_raises
WHERE organization_id = $1 AND ($2::bigint = 0 OR budget_id = $2) AND ($3::bigint = 0 OR id < $3)
ORDER BY id DESC
LIMIT $4;

-- name: cancel_raise
UPDATE budget_raises SET cancelled_at = $3 WHERE organization_id = $1 AND id = $2;

-- name: delete_raises
DELETE FROM budget_raises WHERE organization_id = $1 AND budget_id = $2;

-- name: insert_step
INSERT INTO budget_raise_steps (organization_id, budget_id, raise_id, kind, effective_at,
                                limit_nanos, actor, reason, created_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9);

-- name: steps
SELECT raise_id, kind, effective_at, limit_nanos, actor, reason, created_at
FROM budget_raise_steps
WHERE organization_id = $1 AND raise_id = ANY($2::bigint[])
ORDER BY effective_at, id;

-- name: set_phase
UPDATE budget_raises SET phase = $3 WHERE organization_id = $1 AND id = $2;

-- name: due_budgets
-- Whose limit time has changed since it was last applied.
SELECT DISTINCT organization_id, budget_id FROM budget_raises
WHERE phase <> 'over'
  AND (coalesce(cancelled_at, end_at) <= $1 OR phase = 'scheduled' AND start_at <= $1);

-- name: next_boundary
SELECT min(CASE phase WHEN 'scheduled' THEN least(start_at, cancelled_at)
                      ELSE coalesce(cancelled_at, end_at) END)
FROM budget_raises
WHERE phase <> 'over';
