-- name: lock_request
SELECT pg_advisory_xact_lock(hashtextextended($1, 7080));

-- name: request
SELECT method, content_hash, resource
FROM requests
WHERE organization_id = $1 AND request_id = $2;

-- name: insert_request
INSERT INTO requests (organization_id, request_id, method, content_hash, resource)
VALUES ($1, $2, $3, $4, $5);
