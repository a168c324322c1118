import { sql, type RawBuilder } from 'kysely'
import type { Digest } from '../../shared/oci/digest.ts'
import { projectOf, type RepositoryName } from '../../shared/oci/reference.ts'
import type {
  Caller,
  CallerFacts,
  ProjectFacts,
  RepositoryFacts,
  RobotPermission,
  StoredBlob,
} from '../accounts/caller.ts'
import type { Records } from './database.ts'

/** What the records say, now, of one caller and one repository: all that access is decided from. */
export interface AccessFacts {
  /** undefined once the account is gone, disabled or expired. */
  readonly caller: CallerFacts | undefined
  readonly project: ProjectFacts | undefined
  /** The caller's role in the project, by Harbor's ids. */
  readonly roleId: number | undefined
  readonly repository: RepositoryFacts | undefined
}

/** A blob that the repository has by a link. */
export interface LinkedBlob extends StoredBlob {
  /** The collector has marked the link or the copy: whoever promises that it exists must revive it first. */
  readonly condemned: boolean
}

export interface LookupAnswer {
  readonly access: AccessFacts
  /** undefined when no digest was asked for, or the repository has no such blob. */
  readonly blob: LinkedBlob | undefined
}

export interface LookupQuestion {
  readonly repository: RepositoryName
  readonly caller: Caller
  readonly digest?: Digest | undefined
}

export type Lookups = ReturnType<typeof createLookups>

/** The one question behind every request of the distribution API, as one statement. */
export function createLookups(records: Records) {
  return {
    /** Project, caller, role, repository, link and stored copy in one round trip. */
    async find(question: LookupQuestion): Promise<LookupAnswer> {
      const { rows } = await statementOf(question).execute(records)
      const [row] = rows
      if (row === undefined) throw new Error('the lookup statement answers one row')
      return readAnswer(row, question)
    },

    /** The caller alone, for what belongs to no repository. */
    async caller(caller: Caller): Promise<CallerFacts | undefined> {
      const { rows } = await statementOf({ repository: nowhere, caller }).execute(records)
      const [row] = rows
      return row && readCaller(row, caller)
    },
  }
}

/** No repository and no project has this name. */
const nowhere = '' as RepositoryName

interface LookupRow {
  project_id: number | null
  project_name: string | null
  public: boolean | null
  repository_id: number | null
  key: string | null
  size: number | null
  condemned: boolean | null
  caller_id: number | string | null
  admin: boolean | null
  role_id: number | null
  robot_project_id: number | null
  permissions: readonly RobotPermission[] | null
  expires_at: Date | null
  scope: '*' | readonly number[] | null
}

/**
 * Link and copy are joined before either may be absent. With one outer join more (`LEFT JOIN links … LEFT JOIN blobs
 * ON b.digest = l.digest`) PostgreSQL 18.4 puts the asked digest in place of `l.digest` and forgets to compare the two
 * in some orders of the joins: every repository then has every blob.
 */
function statementOf({ repository, caller, digest }: LookupQuestion) {
  const { columns, joins } = callerParts(caller)
  return sql<LookupRow>`
    SELECT p.id AS project_id, p.name AS project_name, p.public, r.id AS repository_id,
      b.key, b.size, (b.state = 'condemned' OR l.condemned_at IS NOT NULL) AS condemned, ${columns}
    FROM (VALUES (1)) AS one
    LEFT JOIN projects p ON p.name = ${projectOf(repository)} AND p.deleted_at IS NULL
    LEFT JOIN repositories r ON r.name = ${repository} AND r.project_id = p.id AND r.deleted_at IS NULL
    LEFT JOIN (links l JOIN blobs b ON b.digest = l.digest AND b.state <> 'gone')
      ON l.repository_id = r.id AND l.digest = ${digest ?? null}
    ${joins}`
}

/** The columns and joins that depend on who asks; every variant yields the same row. */
function callerParts(caller: Caller): { columns: RawBuilder<unknown>; joins: RawBuilder<unknown> } {
  const noUser = sql`NULL::boolean AS admin, NULL::smallint AS role_id`
  const noRobot = sql`NULL::integer AS robot_project_id, NULL::jsonb AS permissions, NULL::timestamptz AS expires_at`
  const noEdge = sql`NULL::jsonb AS scope`
  switch (caller.kind) {
    case 'anonymous':
      return {
        columns: sql`NULL::integer AS caller_id, ${noUser}, ${noRobot}, ${noEdge}`,
        joins: sql``,
      }
    case 'user':
      return {
        columns: sql`u.id AS caller_id, u.sysadmin AS admin, m.role_id, ${noRobot}, ${noEdge}`,
        joins: sql`
          LEFT JOIN users u ON u.id = ${caller.id} AND u.deleted_at IS NULL
          LEFT JOIN members m ON m.project_id = p.id AND m.user_id = u.id`,
      }
    case 'robot':
      return {
        columns: sql`o.id AS caller_id, ${noUser}, o.project_id AS robot_project_id, o.permissions, o.expires_at, ${noEdge}`,
        joins: sql`
          LEFT JOIN robots o ON o.id = ${caller.id} AND o.deleted_at IS NULL AND NOT o.disabled
            AND (o.expires_at IS NULL OR o.expires_at > now())`,
      }
    case 'edge':
      return {
        columns: sql`e.id AS caller_id, ${noUser}, ${noRobot}, e.scope`,
        joins: sql`LEFT JOIN edges e ON e.id = ${caller.id} AND e.deleted_at IS NULL AND NOT e.suspended`,
      }
  }
}

function readAnswer(row: LookupRow, { repository, caller, digest }: LookupQuestion): LookupAnswer {
  const { project_id: projectId, project_name: name, public: isPublic } = row
  const project =
    projectId === null || name === null || isPublic === null
      ? undefined
      : { id: projectId, name, public: isPublic }
  return {
    access: {
      caller: readCaller(row, caller),
      project,
      roleId: row.role_id ?? undefined,
      repository:
        row.repository_id === null || project === undefined
          ? undefined
          : { id: row.repository_id, name: repository, projectId: project.id },
    },
    blob:
      digest === undefined || row.key === null || row.size === null
        ? undefined
        : { digest, key: row.key, size: row.size, condemned: row.condemned === true },
  }
}

function readCaller(row: LookupRow, caller: Caller): CallerFacts | undefined {
  if (caller.kind === 'anonymous') return { kind: 'anonymous' }
  if (row.caller_id === null) return undefined
  switch (caller.kind) {
    case 'user':
      return { kind: 'user', id: caller.id, admin: row.admin === true }
    case 'robot':
      return {
        kind: 'robot',
        id: caller.id,
        projectId: row.robot_project_id ?? undefined,
        permissions: row.permissions ?? [],
        expiresAt: row.expires_at?.getTime(),
      }
    case 'edge':
      return { kind: 'edge', id: caller.id, scope: row.scope ?? [] }
  }
}
