-- What a verification asks of a range of entries, in the order of their primary key: whole calls,
-- behind ($2, $3) up to ($4, $5) as (session epoch, n) of the organization $1. The checks answer one
-- row: how many entries they looked at, and the faulty ones as JSON. A range is small, so that each
-- statement is short and needs little memory however large the ledger is.

-- name: entry_count
-- About how many entries there are, as the sessions count them: adjustments come on top.
SELECT coalesce(sum(settled_count + lost_count), 0)::bigint
FROM sessions
WHERE $1::bigint IS NULL OR organization_id = $1;

-- name: next_organization
SELECT min(organization_id) FROM entries WHERE organization_id > $1;

-- name: end_of_range
SELECT session_epoch, n
FROM entries
WHERE organization_id = $1 AND session_epoch >= $2 AND (session_epoch, n) > ($2, $3)
ORDER BY session_epoch, n
OFFSET $4 LIMIT 1;

-- name: check_accounts_are_named
-- An entry of the platform debits the organization that spent; another's debits its own.
SELECT count(*) AS checked_count,
       jsonb_agg(jsonb_build_array(session_epoch, n, k, fault)) FILTER (WHERE fault IS NOT NULL)
           AS faults
FROM (
    SELECT e.session_epoch, e.n, e.k, CASE
        WHEN o.id IS NULL
        THEN format('its organization %s does not exist', e.organization_id)
        WHEN e.debit_account <> 'spend/' || o.slug AND NOT (o.slug = 'platform' AND s.id IS NOT NULL)
        THEN format('debits %s', e.debit_account)
        WHEN e.credit_account <> CASE e.kind WHEN 'provisional' THEN 'provisional'
                                             WHEN 'lost' THEN 'lost'
                                             ELSE 'payable/' || e.provider END
        THEN format('is %s of %s and credits %s', e.kind, e.provider, e.credit_account)
        WHEN e.currency <> o.currency
        THEN format('is in %s, its organization in %s', e.currency, o.currency)
    END AS fault
    FROM entries AS e
    LEFT JOIN organizations AS o ON o.id = e.organization_id
    LEFT JOIN organizations AS s ON e.debit_account = 'spend/' || s.slug
                                AND s.slug = substr(e.debit_account, 7)
    WHERE e.organization_id = $1 AND e.session_epoch BETWEEN $2 AND $4
      AND (e.session_epoch, e.n) > ($2, $3) AND (e.session_epoch, e.n) <= ($4, $5)
) AS compared;

-- name: check_trial_balance_is_zero
-- Both sides of an entry are one row with one amount, so that the balance of all accounts is off
-- by what an entry says that lacks a side.
SELECT count(*) AS checked_count,
       jsonb_agg(jsonb_build_array(session_epoch, n, k, fault)) FILTER (WHERE fault IS NOT NULL)
           AS faults
FROM (
    SELECT session_epoch, n, k, CASE
        WHEN debit_account = '' OR credit_account = ''
        THEN format('moves %s %s nanos from %s to %s: it lacks a side', amount_nanos, currency,
                    coalesce(nullif(credit_account, ''), 'nowhere'),
                    coalesce(nullif(debit_account, ''), 'nowhere'))
        WHEN debit_account = credit_account
        THEN format('moves %s %s nanos from %s to itself', amount_nanos, currency, debit_account)
    END AS fault
    FROM entries
    WHERE organization_id = $1 AND session_epoch BETWEEN $2 AND $4
      AND (session_epoch, n) > ($2, $3) AND (session_epoch, n) <= ($4, $5)
) AS compared;

-- name: check_provisional_is_open_calls
SELECT count(*) AS checked_count,
       jsonb_agg(jsonb_build_array(session_epoch, n, 0, fault)) FILTER (WHERE fault IS NOT NULL)
           AS faults
FROM (
    SELECT session_epoch, n, CASE
        WHEN coalesce(provisional_nanos, 0)
          <> CASE WHEN is_final THEN 0 ELSE coalesce(first_nanos, 0) END
        THEN format('holds %s nanos provisionally and is %s', coalesce(provisional_nanos, 0),
                    CASE WHEN is_final THEN 'final' ELSE 'open' END)
    END AS fault
    FROM (
        SELECT session_epoch, n,
               sum(amount_nanos) FILTER (WHERE credit_account = 'provisional') AS provisional_nanos,
               sum(amount_nanos) FILTER (WHERE k = 0) AS first_nanos,
               bool_or(kind = 'final') AS is_final
        FROM entries
        WHERE organization_id = $1 AND session_epoch BETWEEN $2 AND $4
          AND (session_epoch, n) > ($2, $3) AND (session_epoch, n) <= ($4, $5)
        GROUP BY session_epoch, n
        HAVING bool_or(kind = 'provisional' OR credit_account = 'provisional')
    ) AS calls
) AS compared;

-- name: check_draw_sets_exist
WITH in_range AS MATERIALIZED (
    SELECT session_epoch, n, k, draw_set_id,
           first_value(draw_set_id) OVER (PARTITION BY session_epoch, n ORDER BY k) AS first_id
    FROM entries
    WHERE organization_id = $1 AND session_epoch BETWEEN $2 AND $4
      AND (session_epoch, n) > ($2, $3) AND (session_epoch, n) <= ($4, $5)
),
used AS MATERIALIZED (SELECT DISTINCT draw_set_id FROM in_range),
missing AS (
    SELECT u.draw_set_id, CASE
        WHEN t.id IS NULL THEN format('its draw set %s does not exist', u.draw_set_id)
        ELSE (
            SELECT format('window %s of its draw set %s does not exist', d.budget_window_id, t.id)
            FROM unnest(t.budget_window_ids) AS d (budget_window_id)
            WHERE NOT EXISTS (
                SELECT FROM budget_windows AS w
                WHERE w.organization_id = $1 AND w.id = d.budget_window_id
            )
            LIMIT 1
        )
    END AS fault
    FROM used AS u
    LEFT JOIN draw_sets AS t ON t.organization_id = $1 AND t.id = u.draw_set_id
)
SELECT count(*) AS checked_count,
       jsonb_agg(jsonb_build_array(session_epoch, n, k, fault)) FILTER (WHERE fault IS NOT NULL)
           AS faults
FROM (
    -- Looked up and not joined: the planner can't know how few draw sets there are.
    SELECT session_epoch, n, k, coalesce(
        (SELECT jsonb_object_agg(draw_set_id, fault) FROM missing WHERE fault IS NOT NULL)
            ->> draw_set_id::text,
        CASE WHEN draw_set_id <> first_id
             THEN format('has the draw set %s, its call %s', draw_set_id, first_id) END
    ) AS fault
    FROM in_range
) AS compared;

-- name: check_charges_are_whole
SELECT count(*) AS checked_count,
       jsonb_agg(jsonb_build_array(session_epoch, n, 0, fault)) FILTER (WHERE fault IS NOT NULL)
           AS faults
FROM (
    SELECT session_epoch, n, CASE
        WHEN first_k <> 0 OR last_k <> posting_count - 1
        THEN format('has %s postings, numbered %s to %s', posting_count, first_k, last_k)
        WHEN n > 0 AND (first_nanos < 0 OR amount_nanos < 0)
        THEN format('costs %s nanos, at first %s', amount_nanos, first_nanos)
        WHEN unreleased > 0
        THEN 'is released and costs something'
        WHEN is_strange
        THEN 'is of a kind or number that does not exist'
    END AS fault
    FROM (
        SELECT session_epoch, n, min(k) AS first_k, max(k) AS last_k, count(*) AS posting_count,
               sum(amount_nanos) AS amount_nanos,
               coalesce(sum(amount_nanos) FILTER (WHERE k = 0), 0) AS first_nanos,
               count(*) FILTER (WHERE kind = 'released' AND (k > 0 OR amount_nanos <> 0))
                   AS unreleased,
               bool_or(CASE WHEN n < 0 THEN kind <> 'lost' OR k <> 0
                            WHEN kind = 'correction' THEN k = 0
                            ELSE kind NOT IN ('final', 'provisional', 'released') OR n = 0
                       END) AS is_strange
        FROM entries
        WHERE organization_id = $1 AND session_epoch BETWEEN $2 AND $4
          AND (session_epoch, n) > ($2, $3) AND (session_epoch, n) <= ($4, $5)
        GROUP BY session_epoch, n
    ) AS calls
) AS compared;

-- name: check_corrections_are_accepted
-- Those in the platform's ledger are of the organization's that spent.
SELECT count(*) AS checked_count,
       jsonb_agg(jsonb_build_array(session_epoch, n, k, fault)) FILTER (WHERE fault IS NOT NULL)
           AS faults
FROM (
    SELECT e.session_epoch, e.n, e.k, CASE
        WHEN r.id IS NULL THEN format('is of re-rating %s, which does not exist', e.rerating_id)
        WHEN r.state = 'planned'
        THEN format('is of re-rating %s, which nobody accepted', e.rerating_id)
    END AS fault
    FROM entries AS e
    LEFT JOIN organizations AS o ON e.debit_account = 'spend/' || o.slug
    LEFT JOIN reratings AS r ON r.organization_id = o.id AND r.id = e.rerating_id
    WHERE e.organization_id = $1 AND e.session_epoch BETWEEN $2 AND $4
      AND (e.session_epoch, e.n) > ($2, $3) AND (e.session_epoch, e.n) <= ($4, $5)
      AND e.kind = 'correction'
) AS compared;

-- name: make_sums
-- The entries of one snapshot, summed by session and draw set (and by what shadow windows said of
-- them): what balances are compared with. On disk where it is large, seen by this transaction alone,
-- gone with it.
CREATE TEMPORARY TABLE entry_sums (
    organization_id bigint NOT NULL,
    session_epoch bigint NOT NULL,
    draw_set_id bigint NOT NULL,
    amount_nanos numeric NOT NULL DEFAULT 0,
    first_nanos numeric NOT NULL DEFAULT 0,
    lost_nanos numeric NOT NULL DEFAULT 0,
    added_nanos numeric NOT NULL DEFAULT 0,
    beyond_nanos numeric NOT NULL DEFAULT 0,
    would_refuse_window_ids bigint[],
    first_count bigint NOT NULL DEFAULT 0,
    highest_n bigint,
    lost_count bigint NOT NULL DEFAULT 0,
    last_lost bigint NOT NULL DEFAULT 0
) ON COMMIT DROP;

-- name: know_sums
ANALYZE entry_sums;

-- name: sum_range
INSERT INTO entry_sums (organization_id, session_epoch, draw_set_id, amount_nanos, first_nanos,
                        lost_nanos, first_count, highest_n, lost_count, last_lost, beyond_nanos,
                        would_refuse_window_ids)
SELECT organization_id, session_epoch, draw_set_id, sum(amount_nanos),
       coalesce(sum(amount_nanos) FILTER (WHERE k = 0), 0),
       coalesce(sum(amount_nanos) FILTER (WHERE kind = 'lost'), 0),
       count(*) FILTER (WHERE k = 0 AND n > 0), max(n) FILTER (WHERE n > 0),
       count(*) FILTER (WHERE n < 0), coalesce(greatest(-min(n), 0), 0),
       sum(CASE WHEN k = 0 THEN greatest(amount_nanos - reserved_nanos, 0)
                ELSE greatest(amount_nanos, 0) END),
       would_refuse_window_ids
FROM entries
WHERE organization_id = $1 AND session_epoch BETWEEN $2 AND $4
  AND (session_epoch, n) > ($2, $3) AND (session_epoch, n) <= ($4, $5)
GROUP BY organization_id, session_epoch, draw_set_id, would_refuse_window_ids;

-- name: sum_differences_of_range
-- What later differences added to a call: what a call's adjustments take away is not overrun. Those
-- of one call come together; corrections come one by one, and what one of them takes away may be
-- lent before the next adds it again.
INSERT INTO entry_sums (organization_id, session_epoch, draw_set_id, added_nanos)
SELECT organization_id, session_epoch, draw_set_id, sum(added_nanos)
FROM (
    SELECT organization_id, session_epoch, draw_set_id,
           greatest(sum(amount_nanos) FILTER (WHERE kind <> 'correction'), 0)
           + coalesce(sum(amount_nanos) FILTER (WHERE kind = 'correction' AND amount_nanos > 0), 0)
               AS added_nanos
    FROM entries
    WHERE organization_id = $1 AND session_epoch BETWEEN $2 AND $4
      AND (session_epoch, n) > ($2, $3) AND (session_epoch, n) <= ($4, $5) AND k > 0
    GROUP BY organization_id, session_epoch, n, draw_set_id
) AS adjusted
WHERE added_nanos > 0
GROUP BY organization_id, session_epoch, draw_set_id;

-- name: sessions_behind
-- Whose entries in the window $2 are not what their allowance says: where its difference comes from.
SELECT session_epoch, amount_nanos - settled_nanos AS difference_nanos
FROM (
    SELECT coalesce(d.session_epoch, a.session_epoch) AS session_epoch,
           coalesce(d.amount_nanos, 0) AS amount_nanos,
           coalesce(a.settled_nanos, 0) AS settled_nanos
    FROM (
        SELECT s.session_epoch, sum(s.first_nanos) AS amount_nanos
        FROM entry_sums AS s
        JOIN draw_sets AS t ON t.organization_id = s.organization_id AND t.id = s.draw_set_id
        WHERE s.organization_id = $1 AND $2::bigint = ANY(t.budget_window_ids)
          AND $2::bigint <> ALL(t.armed_window_ids)
        GROUP BY s.session_epoch
    ) AS d
    FULL JOIN (
        SELECT session_epoch, settled_nanos FROM allowances
        WHERE organization_id = $1 AND budget_window_id = $2
    ) AS a ON a.session_epoch = d.session_epoch
) AS compared
WHERE amount_nanos <> settled_nanos
  AND (SELECT hard FROM budget_windows WHERE organization_id = $1 AND id = $2)
ORDER BY session_epoch
LIMIT $3;

-- name: missing_numbers
-- Gaps in the numbers of a session, the first ones: (first, last) of each.
SELECT after_n + 1 AS first_n, n - 1 AS last_n
FROM (
    SELECT n, lag(n, 1, 0::bigint) OVER (ORDER BY n) AS after_n
    FROM (
        SELECT n FROM entries
        WHERE organization_id = $1 AND session_epoch = $2 AND n > 0 AND k = 0
        UNION ALL
        SELECT greatest(highest_settled_n, coalesce(last_n, 0)) + 1 FROM sessions
        WHERE organization_id = $1 AND session_epoch = $2
    ) AS numbers
) AS gaps
WHERE n > after_n + 1
ORDER BY n
LIMIT $3;

-- name: entries_behind
-- The entries of a session (null: of all) that draw on a window: those that alone explain a
-- difference of $4 nanos first, then the latest.
SELECT e.session_epoch, e.n, e.k, e.amount_nanos, abs(e.amount_nanos) = abs($4::numeric) AS explains
FROM entries AS e
JOIN draw_sets AS t ON t.organization_id = e.organization_id AND t.id = e.draw_set_id
WHERE e.organization_id = $1 AND ($2::bigint IS NULL OR e.session_epoch = $2)
  AND ($3::bigint IS NULL OR $3 = ANY(t.budget_window_ids))
ORDER BY explains DESC, e.session_epoch DESC, e.n DESC, e.k DESC
LIMIT $5;

-- name: organization_name
SELECT slug FROM organizations WHERE id = $1;
