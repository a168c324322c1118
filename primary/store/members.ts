import type { Transaction } from 'kysely'
import { ApiError } from '../../shared/api/errors.ts'
import type { Page } from '../../shared/api/paging.ts'
import type { ProjectFacts } from '../accounts/caller.ts'
import { roleNames } from '../accounts/permissions.ts'
import { appendAudit, type AuditActor, type AuditEntry, type AuditOperation } from './audit.ts'
import type { Records } from './database.ts'
import { escapeLike, readPage } from './filters.ts'
import { appendEvents } from './outbox.ts'
import { holdProject } from './projects.ts'
import type { Schema } from './schema.ts'

/** A person's role in a project. */
export interface Member {
  readonly id: number
  readonly projectId: number
  readonly userId: number
  readonly username: string
  readonly roleId: number
}

export interface MemberListing {
  readonly projectId: number
  /** Part of the name, in any case. */
  readonly name: string | undefined
  readonly page: Page
}

/** Who did it, where and when. */
export interface MemberDeed {
  readonly project: ProjectFacts
  readonly actor: AuditActor
  readonly now: Date
}

export type Members = ReturnType<typeof createMembers>

/** Members of projects. Every method names the project: a member's id alone opens nothing. */
export function createMembers(records: Records) {
  const select = (projectId: number) =>
    records
      .selectFrom('members as m')
      .innerJoin('users as u', 'u.id', 'm.user_id')
      .where('m.project_id', '=', projectId)
      .where('u.deleted_at', 'is', null)

  return {
    /** One page of a project's members, by name, and how many there are. */
    async list({ projectId, name, page }: MemberListing): Promise<{
      readonly rows: readonly Member[]
      readonly total: number
    }> {
      const all = select(projectId)
      const query =
        name === undefined ? all : all.where('u.username', 'ilike', `%${escapeLike(name)}%`)
      return readPage(query, {
        sorts: [],
        page,
        last: { column: 'u.username', descending: false },
        select: (sorted) => sorted.select(memberColumns),
      })
    },

    async get(projectId: number, memberId: number): Promise<Member | undefined> {
      return select(projectId).select(memberColumns).where('m.id', '=', memberId).executeTakeFirst()
    },

    /**
     * Gives a person a role in a project.
     * @returns the member's id
     * @throws ApiError CONFLICT when the person has a role there; NOT_FOUND when either is gone
     */
    create(
      user: { readonly id: number; readonly username: string },
      roleId: number,
      deed: MemberDeed,
    ): Promise<number> {
      const { project, now } = deed
      return records.transaction().execute(async (trx) => {
        await holdParties(trx, { projectId: project.id, userId: user.id })
        const inserted = await trx
          .insertInto('members')
          .values({
            project_id: project.id,
            user_id: user.id,
            role_id: roleId,
            created_at: now,
            updated_at: now,
          })
          .onConflict((conflict) => conflict.doNothing())
          .returning('id')
          .executeTakeFirst()
        if (inserted === undefined) {
          throw new ApiError('CONFLICT', `${user.username} is a member of the project already`)
        }
        await appendAudit(trx, memberAudit('create', { ...deed, ...user, roleId }), now)
        await appendEvents(
          trx,
          [{ type: 'member', projectId: project.id, userId: user.id, roleId }],
          now,
        )
        return inserted.id
      })
    },

    /** Changes a member's role. Returns false when the project has no such member. */
    setRole(memberId: number, roleId: number, deed: MemberDeed): Promise<boolean> {
      const { project, now } = deed
      return records.transaction().execute(async (trx) => {
        const member = await lockMember(trx, { projectId: project.id, memberId })
        if (member === undefined) return false
        await trx
          .updateTable('members')
          .set({ role_id: roleId, updated_at: now })
          .where('id', '=', memberId)
          .execute()
        await appendAudit(
          trx,
          memberAudit('update', { ...deed, username: member.username, roleId }),
          now,
        )
        await appendEvents(
          trx,
          [{ type: 'member', projectId: project.id, userId: member.userId, roleId }],
          now,
        )
        return true
      })
    },

    /** Takes a member's role away. Returns false when the project has no such member. */
    remove(memberId: number, deed: MemberDeed): Promise<boolean> {
      const { project, now } = deed
      return records.transaction().execute(async (trx) => {
        const member = await lockMember(trx, { projectId: project.id, memberId })
        if (member === undefined) return false
        await trx.deleteFrom('members').where('id', '=', memberId).execute()
        const { username, userId, roleId } = member
        await appendAudit(trx, memberAudit('delete', { ...deed, username, roleId }), now)
        await appendEvents(trx, [{ type: 'member-deleted', projectId: project.id, userId }], now)
        return true
      })
    },
  }
}

const memberColumns = [
  'm.id',
  'm.project_id as projectId',
  'm.user_id as userId',
  'u.username',
  'm.role_id as roleId',
] as const

/** Both must live on until this commits, or their deletion must come first and be seen. */
async function holdParties(
  trx: Transaction<Schema>,
  { projectId, userId }: { readonly projectId: number; readonly userId: number },
): Promise<void> {
  await holdProject(trx, projectId)
  const user = await trx
    .selectFrom('users')
    .select('id')
    .where('id', '=', userId)
    .where('deleted_at', 'is', null)
    .forShare()
    .executeTakeFirst()
  if (user === undefined) throw new ApiError('NOT_FOUND', 'the user was deleted meanwhile')
}

async function lockMember(
  trx: Transaction<Schema>,
  { projectId, memberId }: { readonly projectId: number; readonly memberId: number },
): Promise<Member | undefined> {
  return trx
    .selectFrom('members as m')
    .innerJoin('users as u', 'u.id', 'm.user_id')
    .select(memberColumns)
    .where('m.project_id', '=', projectId)
    .where('m.id', '=', memberId)
    .where('u.deleted_at', 'is', null)
    .forUpdate('m')
    .executeTakeFirst()
}

function memberAudit(
  operation: AuditOperation<'member'>,
  deed: MemberDeed & { readonly username: string; readonly roleId: number },
): AuditEntry {
  const { actor, project, username, roleId } = deed
  return {
    actor,
    operation,
    resourceType: 'member',
    resource: username,
    projectId: project.id,
    description: `${roleNames[roleId] ?? 'role'} of ${project.name}`,
  }
}
