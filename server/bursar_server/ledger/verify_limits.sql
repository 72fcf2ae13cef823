-- Which limit windows have, in the form of verify.sql.

-- name: check_limits_are_in_force
-- Not of a window that was begun ahead of its time: it has the limit of its own first instant. Nor
-- of a budget that time or somebody is just changing: the writer is about to apply that. A minute
-- either way is left for clocks that differ.
WITH compared AS (
    SELECT CASE
        WHEN w.start_at <= clock_timestamp() - interval '1 minute'
         AND (w.end_at IS NULL OR w.end_at > clock_timestamp() + interval '1 minute')
         AND w.budget_version = b.version AND r.is_due IS NOT TRUE
         AND w.limit_nanos <> least(b.limit_nanos + coalesce(r.amount_nanos, 0), 10::numeric ^ 18)
        THEN format('%s budgets/%s window %s from %s: its limit is %s nanos, the budget''s %s and'
                    ' its raises %s', o.slug, b.slug, w.id, w.start_at, w.limit_nanos,
                    b.limit_nanos, coalesce(r.amount_nanos, 0))
    END AS difference
    FROM budget_windows AS w
    JOIN organizations AS o ON o.id = w.organization_id
    JOIN budgets AS b ON b.organization_id = w.organization_id AND b.id = w.budget_id
    LEFT JOIN LATERAL (
        SELECT sum(c.amount_nanos) FILTER (WHERE c.phase = 'running') AS amount_nanos,
               bool_or(least(c.cancelled_at, c.end_at, CASE c.phase WHEN 'scheduled'
                                                               THEN c.start_at END)
                       <= clock_timestamp() + interval '1 minute') AS is_due
        FROM budget_raises AS c
        WHERE c.organization_id = b.organization_id AND c.budget_id = b.id AND c.phase <> 'over'
    ) AS r ON true
    WHERE $1::bigint IS NULL OR w.organization_id = $1
)
SELECT (SELECT count(*) FROM compared) AS checked_count,
       (SELECT count(difference) FROM compared) AS difference_count,
       (SELECT jsonb_agg(to_jsonb(t)) FROM (
            SELECT * FROM compared WHERE difference IS NOT NULL ORDER BY difference LIMIT $2
        ) AS t) AS told;
