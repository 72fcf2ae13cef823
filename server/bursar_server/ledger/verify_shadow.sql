-- The check of what shadow budgets count, in the form of verify.sql.

-- name: check_would_refuse_equals_entries
-- What was let through fitted, call by call, into what was left of a limit: in sum it exceeds the
-- highest limit by no more than what charges exceeded their reservations, or were found to cost
-- later. What the window had seen before its budget was made stands apart: nobody judged it.
WITH drawn AS (
    SELECT e.organization_id, e.session_epoch, e.n, e.k, e.amount_nanos, e.reserved_nanos,
           w.id AS budget_window_id,
           coalesce(w.id = ANY(e.would_refuse_window_ids), false) AS is_refused
    FROM entries AS e
    JOIN draw_sets AS t ON t.organization_id = e.organization_id AND t.id = e.draw_set_id
    JOIN budget_windows AS w
      ON w.organization_id = e.organization_id AND w.id = ANY(t.budget_window_ids) AND w.shadow
    WHERE $1::bigint IS NULL OR e.organization_id = $1
),
sums AS (
    SELECT organization_id, budget_window_id,
           count(*) FILTER (WHERE is_refused AND k = 0) AS refused_count,
           coalesce(sum(amount_nanos) FILTER (WHERE is_refused), 0) AS refused_nanos,
           coalesce(sum(amount_nanos) FILTER (WHERE NOT is_refused), 0) AS through_nanos,
           coalesce(sum(CASE WHEN k = 0 THEN greatest(amount_nanos - reserved_nanos, 0)
                             ELSE greatest(amount_nanos, 0) END)
                    FILTER (WHERE NOT is_refused), 0) AS beyond_nanos
    FROM drawn
    GROUP BY organization_id, budget_window_id
),
windows AS (
    SELECT CASE
        WHEN w.would_refuse_count <> coalesce(s.refused_count, 0)
          OR w.would_refuse_nanos <> coalesce(s.refused_nanos, 0)
        THEN format('%s window %s from %s: would have refused %s calls of %s nanos, its entries'
                    ' say %s of %s',
                    o.slug, w.id, w.start_at, w.would_refuse_count, w.would_refuse_nanos,
                    coalesce(s.refused_count, 0), coalesce(s.refused_nanos, 0))
        WHEN s.through_nanos > 0 AND coalesce(l.amount_nanos, 0) + s.through_nanos
           > greatest(v.limit_nanos, l.amount_nanos) + s.beyond_nanos
        THEN format('%s window %s from %s: let %s nanos through after %s, its limit was never above'
                    ' %s', o.slug, w.id, w.start_at, s.through_nanos, coalesce(l.amount_nanos, 0),
                    v.limit_nanos)
    END AS difference
    FROM budget_windows AS w
    JOIN organizations AS o ON o.id = w.organization_id
    LEFT JOIN sums AS s
      ON s.organization_id = w.organization_id AND s.budget_window_id = w.id
    LEFT JOIN opening_lines AS l
      ON l.organization_id = w.organization_id AND l.budget_window_id = w.id
    LEFT JOIN LATERAL (
        SELECT max(b.limit_nanos) AS limit_nanos
        FROM budget_versions AS b
        WHERE b.organization_id = w.organization_id AND b.budget_id = w.budget_id
    ) AS v ON true
    WHERE $1::bigint IS NULL OR w.organization_id = $1
),
-- An entry can only be refused by a shadow window that it draws on.
marks AS (
    SELECT CASE WHEN w.shadow IS NOT TRUE OR NOT r.budget_window_id = ANY(t.budget_window_ids)
        THEN format('organization %s %s-%s-%s: says that window %s would have refused it, which it'
                    ' can not', e.organization_id, e.session_epoch, e.n, e.k, r.budget_window_id)
    END AS difference
    FROM entries AS e
    CROSS JOIN LATERAL unnest(e.would_refuse_window_ids) AS r (budget_window_id)
    LEFT JOIN draw_sets AS t ON t.organization_id = e.organization_id AND t.id = e.draw_set_id
    LEFT JOIN budget_windows AS w
      ON w.organization_id = e.organization_id AND w.id = r.budget_window_id
    WHERE $1::bigint IS NULL OR e.organization_id = $1
),
compared AS (
    SELECT difference FROM windows UNION ALL SELECT difference FROM marks
)
SELECT count(*) AS checked_count,
       (array_agg(difference ORDER BY difference) FILTER (WHERE difference IS NOT NULL))[:$2]
           AS differences
FROM compared;
