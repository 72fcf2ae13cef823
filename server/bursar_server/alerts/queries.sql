-- name: event_page
-- The newest first; ids grow with time.
SELECT e.id, e.kind, coalesce('budgets/' || b.slug, '') AS budget, e.summary, e.amount_nanos,
       e.currency, e.created_at
FROM events AS e
LEFT JOIN budgets AS b ON b.organization_id = e.organization_id AND b.id = e.budget_id
WHERE e.organization_id = $1 AND ($2::bigint IS NULL OR e.id < $2)
ORDER BY e.id DESC
LIMIT $3;
