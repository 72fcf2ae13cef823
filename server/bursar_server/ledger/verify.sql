-- The checks of a verification. Each answers one row: how many rows it looked at, and what is
-- wrong in words ($2 of them at most). $1 is an organization's id; null: every organization.

-- name: check_settled_equals_entries
WITH sums AS (
    SELECT organization_id, draw_set_id, sum(amount_nanos) AS amount_nanos
    FROM entries
    WHERE $1::bigint IS NULL OR organization_id = $1
    GROUP BY organization_id, draw_set_id
),
drawn AS (
    SELECT s.organization_id, d.budget_window_id, sum(s.amount_nanos) AS amount_nanos
    FROM sums AS s
    JOIN draw_sets AS t ON t.organization_id = s.organization_id AND t.id = s.draw_set_id
    CROSS JOIN LATERAL unnest(t.budget_window_ids) AS d (budget_window_id)
    GROUP BY s.organization_id, d.budget_window_id
),
compared AS (
    SELECT CASE
        WHEN w.settled_nanos <> coalesce(d.amount_nanos, 0) + coalesce(l.amount_nanos, 0)
        THEN format('%s budgets/%s window %s from %s: settled %s nanos, its entries %s nanos,'
                    ' its opening line %s nanos',
                    o.slug, b.slug, w.id, w.start_at, w.settled_nanos,
                    coalesce(d.amount_nanos, 0), coalesce(l.amount_nanos, 0))
    END AS difference
    FROM budget_windows AS w
    JOIN organizations AS o ON o.id = w.organization_id
    JOIN budgets AS b ON b.organization_id = w.organization_id AND b.id = w.budget_id
    LEFT JOIN drawn AS d
      ON d.organization_id = w.organization_id AND d.budget_window_id = w.id
    LEFT JOIN opening_lines AS l
      ON l.organization_id = w.organization_id AND l.budget_window_id = w.id
    WHERE $1::bigint IS NULL OR w.organization_id = $1
)
SELECT count(*) AS checked_count,
       (array_agg(difference ORDER BY difference) FILTER (WHERE difference IS NOT NULL))[:$2]
           AS differences
FROM compared;

-- name: check_allowances_equal_entries
WITH sums AS (
    SELECT organization_id, session_epoch, draw_set_id, sum(amount_nanos) AS amount_nanos
    FROM entries
    WHERE k = 0 AND ($1::bigint IS NULL OR organization_id = $1)
    GROUP BY organization_id, session_epoch, draw_set_id
),
drawn AS (
    SELECT s.organization_id, s.session_epoch, w.id AS budget_window_id,
           sum(s.amount_nanos) AS amount_nanos
    FROM sums AS s
    JOIN draw_sets AS t ON t.organization_id = s.organization_id AND t.id = s.draw_set_id
    CROSS JOIN LATERAL unnest(t.budget_window_ids) AS d (budget_window_id)
    JOIN budget_windows AS w
      ON w.organization_id = s.organization_id AND w.id = d.budget_window_id AND w.hard
    GROUP BY s.organization_id, s.session_epoch, w.id
),
held AS (
    SELECT a.organization_id, a.session_epoch, a.budget_window_id, a.settled_nanos
    FROM allowances AS a
    WHERE $1::bigint IS NULL OR a.organization_id = $1
),
compared AS (
    SELECT CASE WHEN coalesce(h.settled_nanos, 0) <> coalesce(d.amount_nanos, 0) THEN
        format('organization %s session %s window %s: its allowance settled %s nanos,'
               ' its entries %s nanos',
               coalesce(h.organization_id, d.organization_id),
               coalesce(h.session_epoch, d.session_epoch),
               coalesce(h.budget_window_id, d.budget_window_id),
               coalesce(h.settled_nanos, 0), coalesce(d.amount_nanos, 0))
    END AS difference
    FROM held AS h
    FULL JOIN drawn AS d
      ON d.organization_id = h.organization_id AND d.session_epoch = h.session_epoch
     AND d.budget_window_id = h.budget_window_id
)
SELECT count(*) AS checked_count,
       (array_agg(difference ORDER BY difference) FILTER (WHERE difference IS NOT NULL))[:$2]
           AS differences
FROM compared;

-- name: check_outstanding_equals_allowances
WITH held AS (
    SELECT organization_id, budget_window_id,
           sum(greatest(granted_nanos - returned_nanos - settled_nanos, 0) - in_doubt_nanos)
               AS outstanding_nanos,
           sum(in_doubt_nanos) AS in_doubt_nanos
    FROM allowances
    WHERE $1::bigint IS NULL OR organization_id = $1
    GROUP BY organization_id, budget_window_id
),
compared AS (
    SELECT CASE
        WHEN w.outstanding_nanos <> coalesce(h.outstanding_nanos, 0)
          OR w.in_doubt_nanos <> coalesce(h.in_doubt_nanos, 0)
        THEN format('%s window %s from %s: outstanding %s and in doubt %s nanos,'
                    ' its allowances hold %s and %s nanos',
                    o.slug, w.id, w.start_at, w.outstanding_nanos, w.in_doubt_nanos,
                    coalesce(h.outstanding_nanos, 0), coalesce(h.in_doubt_nanos, 0))
        WHEN NOT w.hard AND w.outstanding_nanos + w.in_doubt_nanos <> 0
        THEN format('%s window %s from %s: it is not hard and lends %s nanos', o.slug, w.id,
                    w.start_at, w.outstanding_nanos + w.in_doubt_nanos)
    END AS difference
    FROM budget_windows AS w
    JOIN organizations AS o ON o.id = w.organization_id
    LEFT JOIN held AS h
      ON h.organization_id = w.organization_id AND h.budget_window_id = w.id
    WHERE $1::bigint IS NULL OR w.organization_id = $1
)
SELECT count(*) AS checked_count,
       (array_agg(difference ORDER BY difference) FILTER (WHERE difference IS NOT NULL))[:$2]
           AS differences
FROM compared;

-- name: check_overrun_equals_allowances
-- A later difference of a charge moves what is settled, not what was lent: if it adds, all of it
-- is overrun.
WITH beyond AS (
    SELECT organization_id, budget_window_id,
           sum(greatest(settled_nanos - (granted_nanos - returned_nanos), 0)) AS overrun_nanos
    FROM allowances
    WHERE $1::bigint IS NULL OR organization_id = $1
    GROUP BY organization_id, budget_window_id
),
adjusted AS (
    SELECT organization_id, draw_set_id, sum(amount_nanos) AS amount_nanos
    FROM entries
    WHERE k > 0 AND ($1::bigint IS NULL OR organization_id = $1)
    GROUP BY organization_id, session_epoch, n, draw_set_id
    HAVING sum(amount_nanos) > 0
),
later AS (
    SELECT a.organization_id, d.budget_window_id, sum(a.amount_nanos) AS overrun_nanos
    FROM adjusted AS a
    JOIN draw_sets AS t ON t.organization_id = a.organization_id AND t.id = a.draw_set_id
    CROSS JOIN LATERAL unnest(t.budget_window_ids) AS d (budget_window_id)
    GROUP BY a.organization_id, d.budget_window_id
),
compared AS (
    SELECT CASE
        WHEN w.overrun_nanos
          <> CASE WHEN w.hard
                  THEN coalesce(b.overrun_nanos, 0) + coalesce(l.overrun_nanos, 0) ELSE 0 END
        THEN format('%s window %s from %s: overrun %s nanos, beyond its allowances %s, later %s'
                    ' nanos',
                    o.slug, w.id, w.start_at, w.overrun_nanos, coalesce(b.overrun_nanos, 0),
                    coalesce(l.overrun_nanos, 0))
    END AS difference
    FROM budget_windows AS w
    JOIN organizations AS o ON o.id = w.organization_id
    LEFT JOIN beyond AS b
      ON b.organization_id = w.organization_id AND b.budget_window_id = w.id
    LEFT JOIN later AS l
      ON l.organization_id = w.organization_id AND l.budget_window_id = w.id
    WHERE $1::bigint IS NULL OR w.organization_id = $1
)
SELECT count(*) AS checked_count,
       (array_agg(difference ORDER BY difference) FILTER (WHERE difference IS NOT NULL))[:$2]
           AS differences
FROM compared;

-- name: check_within_ceiling
WITH compared AS (
    SELECT CASE
        WHEN w.settled_nanos - w.overrun_nanos + w.outstanding_nanos + w.in_doubt_nanos
           > w.ceiling_nanos
        THEN format('%s window %s from %s: settled %s - overrun %s + outstanding %s + in doubt %s'
                    ' nanos exceed the ceiling %s',
                    o.slug, w.id, w.start_at, w.settled_nanos, w.overrun_nanos,
                    w.outstanding_nanos, w.in_doubt_nanos, w.ceiling_nanos)
        WHEN w.ceiling_nanos < w.limit_nanos
        THEN format('%s window %s from %s: ceiling %s nanos below the limit %s', o.slug, w.id,
                    w.start_at, w.ceiling_nanos, w.limit_nanos)
    END AS difference
    FROM budget_windows AS w
    JOIN organizations AS o ON o.id = w.organization_id
    WHERE w.hard AND ($1::bigint IS NULL OR w.organization_id = $1)
)
SELECT count(*) AS checked_count,
       (array_agg(difference ORDER BY difference) FILTER (WHERE difference IS NOT NULL))[:$2]
           AS differences
FROM compared;

-- name: check_accounts_are_named
-- An entry of the platform debits the organization that spent; another's debits its own.
WITH compared AS (
    SELECT CASE
        WHEN e.debit_account = 'spend/' || o.slug THEN NULL
        WHEN o.slug = 'platform'
         AND EXISTS (SELECT FROM organizations AS s WHERE e.debit_account = 'spend/' || s.slug)
        THEN NULL
        ELSE format('%s %s-%s-%s: debits %s', o.slug, e.session_epoch, e.n, e.k, e.debit_account)
    END AS debit_fault,
    CASE
        WHEN e.credit_account = CASE e.kind WHEN 'provisional' THEN 'provisional'
                                                 WHEN 'lost' THEN 'lost'
                                                 ELSE 'payable/' || e.provider END
        THEN NULL
        ELSE format('%s %s-%s-%s: is %s of %s and credits %s', o.slug, e.session_epoch, e.n, e.k,
                    e.kind, e.provider, e.credit_account)
    END AS credit_fault,
    CASE WHEN e.currency <> o.currency THEN
        format('%s %s-%s-%s: is in %s, the organization in %s', o.slug, e.session_epoch, e.n, e.k,
               e.currency, o.currency)
    END AS currency_fault
    FROM entries AS e
    JOIN organizations AS o ON o.id = e.organization_id
    WHERE $1::bigint IS NULL OR e.organization_id = $1
),
faults AS (
    SELECT coalesce(debit_fault, credit_fault, currency_fault) AS difference FROM compared
)
SELECT count(*) AS checked_count,
       (array_agg(difference ORDER BY difference) FILTER (WHERE difference IS NOT NULL))[:$2]
           AS differences
FROM faults;

-- name: check_trial_balance_is_zero
WITH lines AS (
    SELECT organization_id, currency, debit_account AS account, amount_nanos
    FROM entries WHERE $1::bigint IS NULL OR organization_id = $1
    UNION ALL
    SELECT organization_id, currency, credit_account, -amount_nanos
    FROM entries WHERE $1::bigint IS NULL OR organization_id = $1
),
balances AS (
    SELECT organization_id, currency, account, sum(amount_nanos) AS amount_nanos
    FROM lines
    GROUP BY organization_id, currency, account
),
totals AS (
    SELECT organization_id, currency, count(*) AS account_count,
           sum(amount_nanos) AS amount_nanos
    FROM balances
    WHERE account <> ''
    GROUP BY organization_id, currency
),
compared AS (
    SELECT account_count, CASE WHEN amount_nanos <> 0 THEN
        format('organization %s in %s: debits exceed credits by %s nanos', organization_id,
               currency, amount_nanos)
    END AS difference
    FROM totals
)
SELECT coalesce(sum(account_count), 0)::bigint AS checked_count,
       (array_agg(difference ORDER BY difference) FILTER (WHERE difference IS NOT NULL))[:$2]
           AS differences
FROM compared;

-- name: check_provisional_is_open_calls
WITH calls AS (
    SELECT organization_id, session_epoch, n,
           sum(amount_nanos) FILTER (WHERE credit_account = 'provisional') AS provisional_nanos,
           sum(amount_nanos) FILTER (WHERE k = 0) AS first_nanos,
           bool_or(kind = 'final') AS is_final
    FROM entries
    WHERE $1::bigint IS NULL OR organization_id = $1
    GROUP BY organization_id, session_epoch, n
    HAVING bool_or(kind = 'provisional' OR credit_account = 'provisional')
),
compared AS (
    SELECT CASE
        WHEN coalesce(provisional_nanos, 0)
          <> CASE WHEN is_final THEN 0 ELSE coalesce(first_nanos, 0) END
        THEN format('organization %s %s-%s: holds %s nanos provisionally and is %s',
                    organization_id, session_epoch, n, coalesce(provisional_nanos, 0),
                    CASE WHEN is_final THEN 'final' ELSE 'open' END)
    END AS difference
    FROM calls
)
SELECT count(*) AS checked_count,
       (array_agg(difference ORDER BY difference) FILTER (WHERE difference IS NOT NULL))[:$2]
           AS differences
FROM compared;

-- name: check_sessions_count_their_entries
WITH counted AS (
    SELECT organization_id, session_epoch,
           count(DISTINCT n) FILTER (WHERE k = 0 AND n > 0) AS n_count,
           max(n) FILTER (WHERE n > 0) AS highest_n,
           count(*) FILTER (WHERE n < 0) AS lost_count, coalesce(-min(n), 0) AS last_lost
    FROM entries
    WHERE $1::bigint IS NULL OR organization_id = $1
    GROUP BY organization_id, session_epoch
),
held AS (
    SELECT organization_id, session_epoch,
           sum(greatest(granted_nanos - returned_nanos - settled_nanos, 0)) AS held_nanos
    FROM allowances
    WHERE $1::bigint IS NULL OR organization_id = $1
    GROUP BY organization_id, session_epoch
),
known AS (
    SELECT organization_id, session_epoch, state, settled_count, highest_settled_n, last_n,
           lost_count
    FROM sessions
    WHERE $1::bigint IS NULL OR organization_id = $1
),
compared AS (
    SELECT CASE
        WHEN s.session_epoch IS NULL
        THEN format('organization %s session %s: %s numbers are posted, there is no session',
                    c.organization_id, c.session_epoch, c.n_count)
        WHEN s.settled_count <> coalesce(c.n_count, 0)
          OR s.highest_settled_n <> coalesce(c.highest_n, 0)
        THEN format('organization %s session %s: counts %s up to %s, its entries %s up to %s',
                    s.organization_id, s.session_epoch, s.settled_count, s.highest_settled_n,
                    coalesce(c.n_count, 0), coalesce(c.highest_n, 0))
        WHEN s.lost_count <> coalesce(c.lost_count, 0)
          OR s.lost_count > 0 AND s.lost_count <> c.last_lost
        THEN format('organization %s session %s: counts %s entries of what it lost, there are %s'
                    ' up to %s',
                    s.organization_id, s.session_epoch, s.lost_count, coalesce(c.lost_count, 0),
                    coalesce(c.last_lost, 0))
        WHEN s.state = 'closed' AND s.settled_count IS DISTINCT FROM s.last_n
        THEN format('organization %s session %s: closed with %s of %s settled', s.organization_id,
                    s.session_epoch, s.settled_count, s.last_n)
        WHEN s.state = 'closed' AND coalesce(h.held_nanos, 0) <> 0
        THEN format('organization %s session %s: closed, and holds %s nanos', s.organization_id,
                    s.session_epoch, h.held_nanos)
    END AS difference
    FROM known AS s
    FULL JOIN counted AS c
      ON c.organization_id = s.organization_id AND c.session_epoch = s.session_epoch
    LEFT JOIN held AS h
      ON h.organization_id = s.organization_id AND h.session_epoch = s.session_epoch
)
SELECT count(*) AS checked_count,
       (array_agg(difference ORDER BY difference) FILTER (WHERE difference IS NOT NULL))[:$2]
           AS differences
FROM compared;

-- name: check_draw_sets_exist
WITH used AS (
    SELECT organization_id, draw_set_id, count(*) AS entry_count
    FROM entries
    WHERE $1::bigint IS NULL OR organization_id = $1
    GROUP BY organization_id, draw_set_id
),
missing_sets AS (
    SELECT u.entry_count AS checked_count, CASE WHEN t.id IS NULL THEN
        format('organization %s: draw set %s of %s entries does not exist', u.organization_id,
               u.draw_set_id, u.entry_count)
    END AS difference
    FROM used AS u
    LEFT JOIN draw_sets AS t ON t.organization_id = u.organization_id AND t.id = u.draw_set_id
),
missing_windows AS (
    SELECT 0 AS checked_count,
        format('organization %s: window %s of draw set %s does not exist', t.organization_id,
               d.budget_window_id, t.id) AS difference
    FROM draw_sets AS t
    CROSS JOIN LATERAL unnest(t.budget_window_ids) AS d (budget_window_id)
    LEFT JOIN budget_windows AS w
      ON w.organization_id = t.organization_id AND w.id = d.budget_window_id
    WHERE w.id IS NULL AND ($1::bigint IS NULL OR t.organization_id = $1)
),
changed AS (
    SELECT 0 AS checked_count,
        format('organization %s %s-%s: its postings have %s draw sets', organization_id,
               session_epoch, n, count(DISTINCT draw_set_id)) AS difference
    FROM entries
    WHERE $1::bigint IS NULL OR organization_id = $1
    GROUP BY organization_id, session_epoch, n
    HAVING count(DISTINCT draw_set_id) > 1
),
compared AS (
    SELECT * FROM missing_sets
    UNION ALL SELECT * FROM missing_windows
    UNION ALL SELECT * FROM changed
)
SELECT coalesce(sum(checked_count), 0)::bigint AS checked_count,
       (array_agg(difference ORDER BY difference) FILTER (WHERE difference IS NOT NULL))[:$2]
           AS differences
FROM compared;

-- name: check_charges_are_whole
WITH calls AS (
    SELECT organization_id, session_epoch, n, min(k) AS first_k, max(k) AS last_k,
           count(*) AS posting_count, sum(amount_nanos) AS amount_nanos,
           coalesce(sum(amount_nanos) FILTER (WHERE k = 0), 0) AS first_nanos,
           count(*) FILTER (WHERE kind = 'released' AND (k > 0 OR amount_nanos <> 0)) AS unreleased,
           bool_or(CASE WHEN n < 0 THEN kind <> 'lost' OR k <> 0
                        ELSE kind NOT IN ('final', 'provisional', 'released') OR n = 0
                   END) AS is_strange
    FROM entries
    WHERE $1::bigint IS NULL OR organization_id = $1
    GROUP BY organization_id, session_epoch, n
),
compared AS (
    SELECT CASE
        WHEN first_k <> 0 OR last_k <> posting_count - 1
        THEN format('organization %s %s-%s: has %s postings, numbered %s to %s', organization_id,
                    session_epoch, n, posting_count, first_k, last_k)
        WHEN n > 0 AND (first_nanos < 0 OR amount_nanos < 0)
        THEN format('organization %s %s-%s: costs %s nanos, at first %s', organization_id,
                    session_epoch, n, amount_nanos, first_nanos)
        WHEN unreleased > 0
        THEN format('organization %s %s-%s: is released and costs something', organization_id,
                    session_epoch, n)
        WHEN is_strange
        THEN format('organization %s %s-%s: is of a kind or number that does not exist',
                    organization_id, session_epoch, n)
    END AS difference
    FROM calls
)
SELECT count(*) AS checked_count,
       (array_agg(difference ORDER BY difference) FILTER (WHERE difference IS NOT NULL))[:$2]
           AS differences
FROM compared;

-- name: check_lost_equals_entries
WITH sums AS (
    SELECT organization_id, session_epoch, draw_set_id, sum(amount_nanos) AS amount_nanos
    FROM entries
    WHERE kind = 'lost' AND ($1::bigint IS NULL OR organization_id = $1)
    GROUP BY organization_id, session_epoch, draw_set_id
),
drawn AS (
    SELECT s.organization_id, s.session_epoch, d.budget_window_id,
           sum(s.amount_nanos) AS amount_nanos
    FROM sums AS s
    JOIN draw_sets AS t ON t.organization_id = s.organization_id AND t.id = s.draw_set_id
    CROSS JOIN LATERAL unnest(t.budget_window_ids) AS d (budget_window_id)
    GROUP BY s.organization_id, s.session_epoch, d.budget_window_id
),
held AS (
    SELECT organization_id, session_epoch, budget_window_id, lost_nanos
    FROM allowances
    WHERE lost_nanos <> 0 AND ($1::bigint IS NULL OR organization_id = $1)
),
compared AS (
    SELECT CASE WHEN coalesce(h.lost_nanos, 0) <> coalesce(d.amount_nanos, 0) THEN
        format('organization %s session %s window %s: its allowance lost %s nanos, its entries'
               ' of what was lost say %s nanos',
               coalesce(h.organization_id, d.organization_id),
               coalesce(h.session_epoch, d.session_epoch),
               coalesce(h.budget_window_id, d.budget_window_id),
               coalesce(h.lost_nanos, 0), coalesce(d.amount_nanos, 0))
    END AS difference
    FROM held AS h
    FULL JOIN drawn AS d
      ON d.organization_id = h.organization_id AND d.session_epoch = h.session_epoch
     AND d.budget_window_id = h.budget_window_id
)
SELECT count(*) AS checked_count,
       (array_agg(difference ORDER BY difference) FILTER (WHERE difference IS NOT NULL))[:$2]
           AS differences
FROM compared;

-- name: check_resolved_sessions_hold_nothing
WITH resolved AS (
    SELECT DISTINCT organization_id, session_epoch
    FROM resolutions
    WHERE applied_at IS NOT NULL AND refusal = ''
      AND ($1::bigint IS NULL OR organization_id = $1)
),
compared AS (
    SELECT CASE
        WHEN s.state IS NULL OR s.state = 'open'
        THEN format('organization %s session %s: was resolved and is %s', r.organization_id,
                    r.session_epoch, coalesce(s.state, 'not there'))
        WHEN a.held_nanos > 0
        THEN format('organization %s session %s: was resolved and holds %s nanos',
                    r.organization_id, r.session_epoch, a.held_nanos)
    END AS difference
    FROM resolved AS r
    LEFT JOIN sessions AS s
      ON s.organization_id = r.organization_id AND s.session_epoch = r.session_epoch
    LEFT JOIN LATERAL (
        SELECT sum(greatest(granted_nanos - returned_nanos - settled_nanos, 0)) AS held_nanos
        FROM allowances
        WHERE organization_id = r.organization_id AND session_epoch = r.session_epoch
    ) AS a ON true
)
SELECT count(*) AS checked_count,
       (array_agg(difference ORDER BY difference) FILTER (WHERE difference IS NOT NULL))[:$2]
           AS differences
FROM compared;
