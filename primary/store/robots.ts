import { randomUUID } from 'node:crypto'
import { sql, type Selectable, type Transaction } from 'kysely'
import { ApiError } from '../../shared/api/errors.ts'
import type { Page } from '../../shared/api/paging.ts'
import type { Fields, Filter, Sort } from '../../shared/api/query.ts'
import type { EventFact } from '../../shared/replication/events.ts'
import type { Account } from '../accounts/account.ts'
import type { CallerFacts, RobotPermission } from '../accounts/caller.ts'
import { appendAudit, type AuditEntry, type AuditOperation, type Deed } from './audit.ts'
import type { Records } from './database.ts'
import { applyFilters, readPage } from './filters.ts'
import { appendEvents } from './outbox.ts'
import { holdProject } from './projects.ts'
import type { RobotsTable, Schema } from './schema.ts'

/** A robot account, without its secret. */
export interface Robot {
  readonly id: number
  /** As logged in with: `robot$name` or `robot$project+name`. */
  readonly name: string
  readonly description: string
  /** The project of a project robot. */
  readonly projectId: number | undefined
  readonly disabled: boolean
  /** Days, or -1 for ever. */
  readonly durationDays: number
  readonly expiresAt: Date | undefined
  readonly permissions: readonly RobotPermission[]
  readonly creator: RobotCreator
  readonly createdAt: Date
  readonly updatedAt: Date
}

/** Who made a robot. */
export interface RobotCreator {
  readonly kind: 'user' | 'robot' | 'system'
  readonly id: number | undefined
}

export interface NewRobot {
  readonly name: string
  readonly description: string
  readonly projectId: number | undefined
  readonly disabled: boolean
  readonly durationDays: number
  readonly expiresAt: Date | undefined
  readonly permissions: readonly RobotPermission[]
  readonly creator: RobotCreator
  readonly secretHash: string
}

/** What may be changed of a robot besides its secret. */
export type RobotChanges = Pick<
  NewRobot,
  'description' | 'disabled' | 'durationDays' | 'expiresAt' | 'permissions'
>

export interface RobotListing {
  /** Of one project, or undefined: of the system. */
  readonly projectId: number | undefined
  readonly filters: readonly Filter[]
  readonly sorts: readonly Sort[]
  readonly page: Page
}

/** What robots may be filtered and sorted by. The secret is not among them. */
export const robotFields: Fields = {
  id: { column: 'id', type: 'integer' },
  name: { column: 'name', type: 'text' },
  description: { column: 'description', type: 'text' },
  disable: { column: 'disabled', type: 'boolean' },
  duration: { column: 'duration_days', type: 'integer' },
  creation_time: { column: 'created_at', type: 'time' },
  update_time: { column: 'updated_at', type: 'time' },
}

const columns = [
  'id',
  'name',
  'description',
  'project_id',
  'disabled',
  'duration_days',
  'expires_at',
  'permissions',
  'creator_kind',
  'creator_id',
  'created_at',
  'updated_at',
] as const

export type Robots = ReturnType<typeof createRobots>

/** Robot accounts of projects and of the system. */
export function createRobots(records: Records) {
  /** Runs a change on one locked robot and writes the deed and the event with it. */
  const change = (
    id: number,
    deed: AuditedRobotDeed,
    act: (trx: Transaction<Schema>, robot: Robot) => Promise<EventFact>,
  ): Promise<boolean> =>
    records.transaction().execute(async (trx) => {
      const robot = await lockRobot(trx, id)
      if (robot === undefined) return false
      const fact = await act(trx, robot)
      await appendAudit(trx, robotAudit(robot, deed), deed.now)
      await appendEvents(trx, [fact], deed.now)
      return true
    })

  return {
    /** The account that logs in by this name; undefined when it is disabled or has expired. */
    async findLogIn(name: string): Promise<Account | undefined> {
      const row = await records
        .selectFrom('robots')
        .select([...columns, 'secret_hash'])
        .where('name', '=', name)
        .where('deleted_at', 'is', null)
        .where('disabled', '=', false)
        .where(sql<boolean>`(expires_at IS NULL OR expires_at > now())`)
        .executeTakeFirst()
      if (row === undefined) return undefined
      const robot = readRobot(row)
      return {
        caller: { kind: 'robot', id: robot.id, name: robot.name, access: undefined },
        facts: factsOf(robot),
        secretHash: row.secret_hash,
      }
    },

    async get(id: number): Promise<Robot | undefined> {
      const row = await records
        .selectFrom('robots')
        .select(columns)
        .where('id', '=', id)
        .where('deleted_at', 'is', null)
        .executeTakeFirst()
      return row && readRobot(row)
    },

    /** One page of the robots of a project or of the system, and how many there are. */
    async list({ projectId, filters, sorts, page }: RobotListing): Promise<{
      readonly rows: readonly Robot[]
      readonly total: number
    }> {
      const all = records.selectFrom('robots').where('deleted_at', 'is', null)
      const owned =
        projectId === undefined
          ? all.where('project_id', 'is', null)
          : all.where('project_id', '=', projectId)
      const query = applyFilters(owned, filters)
      const { rows, total } = await readPage(query, {
        sorts,
        page,
        last: { column: 'id', descending: false },
        select: (sorted) => sorted.select(columns),
      })
      return { rows: rows.map(readRobot), total }
    },

    /** Every robot, of projects and of the system. */
    async all(): Promise<readonly Robot[]> {
      const rows = await records
        .selectFrom('robots')
        .select(columns)
        .where('deleted_at', 'is', null)
        .orderBy('id')
        .execute()
      return rows.map(readRobot)
    },

    /**
     * Creates a robot.
     * @throws ApiError CONFLICT when the name is taken, NOT_FOUND when the project is gone
     */
    create(robot: NewRobot, { actor, now }: Deed): Promise<Robot> {
      return records.transaction().execute(async (trx) => {
        if (robot.projectId !== undefined) await holdProject(trx, robot.projectId)
        const row = await trx
          .insertInto('robots')
          .values({
            name: robot.name,
            description: robot.description,
            project_id: robot.projectId ?? null,
            secret_hash: robot.secretHash,
            disabled: robot.disabled,
            duration_days: robot.durationDays,
            expires_at: robot.expiresAt ?? null,
            permissions: JSON.stringify(robot.permissions),
            creator_kind: robot.creator.kind,
            creator_id: robot.creator.id ?? null,
            created_at: now,
            updated_at: now,
          })
          .onConflict((conflict) => conflict.doNothing())
          .returning(columns)
          .executeTakeFirst()
        if (row === undefined) {
          throw new ApiError('CONFLICT', `the robot ${robot.name} exists already`)
        }
        const created = readRobot(row)
        const description = describe(created)
        await appendAudit(
          trx,
          robotAudit(created, { actor, now, operation: 'create', description }),
          now,
        )
        await appendEvents(trx, [robotFact(created)], now)
        return created
      })
    },

    /** Changes a robot's rights, life or state. Returns false when there is no such robot. */
    update(id: number, changes: RobotChanges, deed: Deed): Promise<boolean> {
      const description = changes.disabled ? 'disabled' : describe(changes)
      return change(id, { ...deed, operation: 'update', description }, async (trx, robot) => {
        await trx
          .updateTable('robots')
          .set({
            description: changes.description,
            disabled: changes.disabled,
            duration_days: changes.durationDays,
            expires_at: changes.expiresAt ?? null,
            permissions: JSON.stringify(changes.permissions),
            updated_at: deed.now,
          })
          .where('id', '=', id)
          .execute()
        return robotFact({ ...robot, disabled: changes.disabled })
      })
    },

    /** Gives a robot another secret; the old one ends at once. Returns false when there is no such robot. */
    setSecret(id: number, secretHash: string, deed: Deed): Promise<boolean> {
      return change(
        id,
        { ...deed, operation: 'update', description: 'secret' },
        async (trx, robot) => {
          await trx
            .updateTable('robots')
            .set({ secret_hash: secretHash, updated_at: deed.now })
            .where('id', '=', id)
            .execute()
          return robotFact(robot)
        },
      )
    },

    /** Deletes a robot. Returns false when there is none. */
    remove(id: number, deed: Deed): Promise<boolean> {
      return change(id, { ...deed, operation: 'delete', description: '' }, async (trx, robot) => {
        await trx
          .updateTable('robots')
          .set({ deleted_at: deed.now, deletion_id: randomUUID() })
          .where('id', '=', id)
          .execute()
        return { type: 'robot-deleted', robotId: id, ...projectPart(robot) }
      })
    },
  }
}

/** What access reads of a robot. */
function factsOf(robot: Robot): CallerFacts {
  return {
    kind: 'robot',
    id: robot.id,
    projectId: robot.projectId,
    permissions: robot.permissions,
    expiresAt: robot.expiresAt?.getTime(),
  }
}

async function lockRobot(trx: Transaction<Schema>, id: number): Promise<Robot | undefined> {
  const row = await trx
    .selectFrom('robots')
    .select(columns)
    .where('id', '=', id)
    .where('deleted_at', 'is', null)
    .forNoKeyUpdate()
    .executeTakeFirst()
  return row && readRobot(row)
}

function readRobot(row: Pick<Selectable<RobotsTable>, (typeof columns)[number]>): Robot {
  return {
    id: row.id,
    name: row.name,
    description: row.description,
    projectId: row.project_id ?? undefined,
    disabled: row.disabled,
    durationDays: row.duration_days,
    expiresAt: row.expires_at ?? undefined,
    // Only this file writes the column, and only what was checked before.
    permissions: row.permissions as readonly RobotPermission[],
    creator: { kind: row.creator_kind, id: row.creator_id ?? undefined },
    createdAt: row.created_at,
    updatedAt: row.updated_at,
  }
}

function projectPart({ projectId }: Robot): { readonly projectId?: number } {
  return projectId === undefined ? {} : { projectId }
}

function robotFact(robot: Robot): EventFact {
  return { type: 'robot', robotId: robot.id, disabled: robot.disabled, ...projectPart(robot) }
}

function describe({ permissions }: Pick<Robot, 'permissions'>): string {
  return permissions
    .map(({ namespace, access }) => {
      const rights = access.map(({ resource, action }) => `${resource}:${action}`)
      return `${namespace} ${rights.join(' ')}`
    })
    .join('; ')
}

interface AuditedRobotDeed extends Deed {
  readonly operation: AuditOperation<'robot'>
  readonly description: string
}

function robotAudit(robot: Robot, deed: AuditedRobotDeed): AuditEntry {
  const { actor, operation, description } = deed
  return {
    actor,
    operation,
    resourceType: 'robot',
    resource: robot.name,
    projectId: robot.projectId,
    description,
  }
}
