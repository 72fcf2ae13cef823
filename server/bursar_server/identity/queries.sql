-- The placeholders in braces are filled in by store.py from a fixed list of tables and columns,
-- never from a request.

-- name: organization_by_slug
SELECT id, slug, display_name, currency, shard_id, disabled, policy_version,
       price_overlay_version, created_at, updated_at
FROM organizations
WHERE slug = $1;

-- name: organization_by_id
SELECT id, slug, display_name, currency, shard_id, disabled, policy_version,
       price_overlay_version, created_at, updated_at
FROM organizations
WHERE id = $1;

-- name: only_organizations
-- Two are enough to know that there is not one.
SELECT slug FROM organizations WHERE id <> $1 ORDER BY slug LIMIT 2;

-- name: organizations_page
SELECT id, slug, display_name, currency, shard_id, disabled, policy_version,
       price_overlay_version, created_at, updated_at
FROM organizations
WHERE slug > $1
ORDER BY slug
LIMIT $2;

-- name: insert_organization
INSERT INTO organizations (slug, display_name, currency)
VALUES ($1, $2, $3)
ON CONFLICT (slug) DO NOTHING
RETURNING id;

-- name: delete_organization
DELETE FROM organizations WHERE id = $1;

-- name: delete_requests
DELETE FROM requests WHERE organization_id = $1;

-- name: left_in_organization
SELECT kind FROM (
    SELECT 1, 'keys' WHERE EXISTS (SELECT FROM keys WHERE organization_id = $1)
    UNION ALL
    SELECT 2, 'budgets' WHERE EXISTS (SELECT FROM budgets WHERE organization_id = $1)
    UNION ALL
    SELECT 3, 'teams' WHERE EXISTS (SELECT FROM teams WHERE organization_id = $1)
    UNION ALL
    SELECT 4, 'projects' WHERE EXISTS (SELECT FROM projects WHERE organization_id = $1)
    UNION ALL
    SELECT 5, 'users' WHERE EXISTS (SELECT FROM users WHERE organization_id = $1)
    UNION ALL
    SELECT 6, 'sidecars' WHERE EXISTS (SELECT FROM sidecars WHERE organization_id = $1)
    UNION ALL
    SELECT 7, 'prices' WHERE EXISTS (SELECT FROM price_lists WHERE organization_id = $1)
    UNION ALL
    SELECT 8, 'sessions' WHERE EXISTS (SELECT FROM sessions WHERE organization_id = $1)
    UNION ALL
    SELECT 9, 'entries' WHERE EXISTS (SELECT FROM entries WHERE organization_id = $1)
) AS found (place, kind)
ORDER BY place;

-- name: hold_policy
SELECT FROM organizations WHERE id = $1 FOR NO KEY UPDATE;

-- name: record_change
WITH raised AS (
    UPDATE organizations SET policy_version = policy_version + 1 WHERE id = $1
    RETURNING policy_version
), forgotten AS (
    DELETE FROM policy_changes AS c USING raised
    WHERE c.organization_id = $1 AND c.policy_version <= raised.policy_version - $5
)
INSERT INTO policy_changes (organization_id, policy_version, kind, subject_id, secret_hashes)
SELECT $1, policy_version, $2, $3, $4 FROM raised
RETURNING policy_version;

-- name: delete_policy_changes
DELETE FROM policy_changes WHERE organization_id = $1;

-- name: spender_by_slug
SELECT s.id, s.organization_id, s.slug, s.display_name, s.metadata, s.disabled, s.created_at,
       s.updated_at, {further}
FROM {table} AS s
WHERE s.organization_id = $1 AND s.slug = $2;

-- name: spenders_page
SELECT s.id, s.organization_id, s.slug, s.display_name, s.metadata, s.disabled, s.created_at,
       s.updated_at, {further}
FROM {table} AS s
WHERE s.organization_id = $1 AND s.slug > $2
ORDER BY s.slug
LIMIT $3;

-- name: hold_spender
-- The lock keeps it from being deleted until what names it is committed.
SELECT id FROM {table} WHERE organization_id = $1 AND slug = $2 FOR SHARE;

-- name: delete_spender
DELETE FROM {table} WHERE organization_id = $1 AND id = $2;

-- name: insert_row
INSERT INTO {table} ({columns}) VALUES ({values})
ON CONFLICT (organization_id, slug) DO NOTHING
RETURNING id;

-- name: update_row
UPDATE {table} SET {assignments}, updated_at = now() WHERE organization_id = $1 AND id = $2;

-- name: update_organization
UPDATE organizations SET {assignments}, updated_at = now() WHERE id = $1;

-- name: names_of_spender
-- Entries come last: they are the many. No index leads to them by team, and none is worth its
-- price on every call for the sake of a rare deletion.
SELECT kind FROM (
    SELECT 1, 'keys'
    WHERE EXISTS (SELECT FROM keys WHERE organization_id = $1 AND {column} = $2)
    UNION ALL
    SELECT 2, 'budgets'
    WHERE EXISTS (
        SELECT FROM budgets
        WHERE organization_id = $1 AND scope_kind = '{kind}' AND scope_id = $2
    )
    UNION ALL
    SELECT 3, 'projects'
    WHERE '{kind}' = 'team'
        AND EXISTS (SELECT FROM projects WHERE organization_id = $1 AND team_id = $2)
    UNION ALL
    SELECT 4, 'entries'
    WHERE EXISTS (SELECT FROM entries WHERE organization_id = $1 AND {column} = $2)
) AS found (place, kind)
ORDER BY place
LIMIT 1;

-- name: keys
SELECT k.id, k.slug, k.display_name, k.organization_id, o.slug AS organization_slug,
       o.disabled AS organization_disabled, o.currency,
       k.team_id, coalesce(t.slug, '') AS team_slug,
       coalesce(t.disabled, false) AS team_disabled,
       k.project_id, coalesce(p.slug, '') AS project_slug,
       coalesce(p.disabled, false) AS project_disabled,
       k.user_id, coalesce(u.slug, '') AS user_slug,
       coalesce(u.disabled, false) AS user_disabled,
       k.allowed_models, k.tags, k.metadata, k.expires_at, k.revoked_at, k.disabled,
       k.secret_hash, k.secret_prefix, k.created_at, k.updated_at
FROM keys AS k
JOIN organizations AS o ON o.id = k.organization_id
LEFT JOIN teams AS t ON t.organization_id = k.organization_id AND t.id = k.team_id
LEFT JOIN projects AS p ON p.organization_id = k.organization_id AND p.id = k.project_id
LEFT JOIN users AS u ON u.organization_id = k.organization_id AND u.id = k.user_id
WHERE {condition};

-- name: key_has_budgets
SELECT EXISTS (
    SELECT FROM budgets WHERE organization_id = $1 AND scope_kind = 'key' AND scope_id = $2
);

-- name: key_has_entries
SELECT EXISTS (SELECT FROM entries WHERE organization_id = $1 AND key_id = $2);

-- name: set_key_secret
UPDATE keys SET secret_hash = $3, secret_prefix = $4, updated_at = now()
WHERE organization_id = $1 AND id = $2;

-- name: revoke_key
-- Only the first time counts.
UPDATE keys SET revoked_at = now(), updated_at = now()
WHERE organization_id = $1 AND id = $2 AND revoked_at IS NULL;

-- name: admin_key_hashes
SELECT secret_hash FROM admin_keys;

-- name: lock_admin_keys
LOCK TABLE admin_keys IN SHARE ROW EXCLUSIVE MODE;

-- name: insert_admin_key
INSERT INTO admin_keys (secret_hash, secret_prefix) VALUES ($1, $2);
