import { randomUUID } from 'node:crypto'
import { sql, type Selectable, type Transaction } from 'kysely'
import { ApiError } from '../../shared/api/errors.ts'
import type { Page } from '../../shared/api/paging.ts'
import type { Fields, Filter, Sort } from '../../shared/api/query.ts'
import type { Account } from '../accounts/account.ts'
import { appendAudit, type AuditActor, type AuditEntry, type AuditOperation } from './audit.ts'
import { isUniqueViolation } from './conflicts.ts'
import type { Records } from './database.ts'
import { applyFilters, readPage } from './filters.ts'
import { appendEvents } from './outbox.ts'
import type { Schema, UsersTable } from './schema.ts'

/** A person's account, without its password. */
export interface User {
  readonly id: number
  readonly username: string
  readonly email: string
  readonly realname: string
  readonly comment: string
  readonly sysadmin: boolean
  readonly createdAt: Date
  readonly updatedAt: Date
}

export interface NewUser {
  readonly username: string
  readonly email: string
  readonly realname: string
  readonly comment: string
  readonly passwordHash: string
}

export interface UserProfile {
  readonly email: string
  readonly realname: string
  readonly comment: string
}

export interface UserListing {
  readonly filters: readonly Filter[]
  readonly sorts: readonly Sort[]
  readonly page: Page
}

/** What people may be filtered and sorted by. The password is not among them. */
export const userFields: Fields = {
  user_id: { column: 'id', type: 'integer' },
  username: { column: 'username', type: 'text' },
  email: { column: 'email', type: 'text' },
  realname: { column: 'realname', type: 'text' },
  sysadmin_flag: { column: 'sysadmin', type: 'boolean' },
  creation_time: { column: 'created_at', type: 'time' },
  update_time: { column: 'updated_at', type: 'time' },
}

const columns = [
  'id',
  'username',
  'email',
  'realname',
  'comment',
  'sysadmin',
  'created_at',
  'updated_at',
] as const

export type Accounts = ReturnType<typeof createAccounts>

/** People's accounts. A deleted name is free again; what it had stays with its id. */
export function createAccounts(records: Records) {
  /** Runs a change on one locked account and writes the deed and the event with it. */
  const change = (
    id: number,
    deed: { readonly actor: AuditActor; readonly description: string; readonly now: Date },
    act: (trx: Transaction<Schema>, user: User) => Promise<{ readonly admin: boolean }>,
  ): Promise<boolean> =>
    records.transaction().execute(async (trx) => {
      const user = await lockUser(trx, id)
      if (user === undefined) return false
      const { admin } = await act(trx, user)
      const { actor, description, now } = deed
      await appendAudit(trx, userAudit({ actor, operation: 'update', user, description }), now)
      await appendEvents(trx, [{ type: 'user', userId: id, admin }], now)
      return true
    })

  return {
    /** The account that logs in by this name. */
    async findLogIn(username: string): Promise<Account | undefined> {
      const row = await records
        .selectFrom('users')
        .select(['id', 'username', 'sysadmin', 'password_hash'])
        .where('username', '=', username)
        .where('deleted_at', 'is', null)
        .executeTakeFirst()
      return (
        row && {
          caller: { kind: 'user', id: row.id, name: row.username, access: undefined },
          facts: { kind: 'user', id: row.id, admin: row.sysadmin },
          secretHash: row.password_hash ?? undefined,
        }
      )
    },

    async get(id: number): Promise<User | undefined> {
      const row = await records
        .selectFrom('users')
        .select(columns)
        .where('id', '=', id)
        .where('deleted_at', 'is', null)
        .executeTakeFirst()
      return row && readUser(row)
    },

    async findByName(username: string): Promise<User | undefined> {
      const row = await records
        .selectFrom('users')
        .select(columns)
        .where('username', '=', username)
        .where('deleted_at', 'is', null)
        .executeTakeFirst()
      return row && readUser(row)
    },

    /** The stored hash, for who changes a password. */
    async getPasswordHash(id: number): Promise<string | undefined> {
      const row = await records
        .selectFrom('users')
        .select('password_hash')
        .where('id', '=', id)
        .where('deleted_at', 'is', null)
        .executeTakeFirst()
      return row?.password_hash ?? undefined
    },

    /** One page of the people, by id unless sorted otherwise, and how many there are. */
    async list({ filters, sorts, page }: UserListing): Promise<{
      readonly rows: readonly User[]
      readonly total: number
    }> {
      const query = applyFilters(
        records.selectFrom('users').where('deleted_at', 'is', null),
        filters,
      )
      const { rows, total } = await readPage(query, {
        sorts,
        page,
        last: { column: 'id', descending: false },
        select: (sorted) => sorted.select(columns),
      })
      return { rows: rows.map(readUser), total }
    },

    /**
     * Creates a person's account.
     * @returns its id
     * @throws ApiError CONFLICT when the name or the e-mail address is taken
     */
    create(user: NewUser, actor: AuditActor, now: Date): Promise<number> {
      return records.transaction().execute(async (trx) => {
        const inserted = await trx
          .insertInto('users')
          .values({
            username: user.username,
            email: user.email,
            realname: user.realname,
            comment: user.comment,
            password_hash: user.passwordHash,
            sysadmin: false,
            created_at: now,
            updated_at: now,
          })
          .onConflict((conflict) => conflict.doNothing())
          .returning('id')
          .executeTakeFirst()
        if (inserted === undefined) throw taken()
        await appendAudit(
          trx,
          userAudit({ actor, operation: 'create', user, description: '' }),
          now,
        )
        await appendEvents(trx, [{ type: 'user', userId: inserted.id, admin: false }], now)
        return inserted.id
      })
    },

    /**
     * Creates the first account, `admin` with the id 1, unless there is one of that name.
     * @returns whether it was created
     */
    ensureAdmin(passwordHash: string, now: Date): Promise<boolean> {
      return records.transaction().execute(async (trx) => {
        const { rows } = await sql`
          INSERT INTO users (id, username, email, realname, comment, password_hash, sysadmin,
            created_at, updated_at)
          OVERRIDING SYSTEM VALUE
          VALUES (1, 'admin', '', 'system admin', 'admin user', ${passwordHash}, true, ${now}, ${now})
          ON CONFLICT DO NOTHING RETURNING id`.execute(trx)
        if (rows.length === 0) return false
        await sql`
          SELECT setval(pg_get_serial_sequence('users', 'id'), (SELECT max(id) FROM users))`.execute(
          trx,
        )
        const actor = { username: '', address: '' }
        const user = { username: 'admin' }
        await appendAudit(
          trx,
          userAudit({ actor, operation: 'create', user, description: '' }),
          now,
        )
        await appendEvents(trx, [{ type: 'user', userId: 1, admin: true }], now)
        return true
      })
    },

    /**
     * Changes what a person says of themself.
     * @returns false when there is no such account
     * @throws ApiError CONFLICT when the e-mail address is another's
     */
    async setProfile(
      id: number,
      profile: UserProfile,
      deed: { readonly actor: AuditActor; readonly now: Date },
    ): Promise<boolean> {
      try {
        return await change(id, { ...deed, description: 'profile' }, async (trx, user) => {
          await trx
            .updateTable('users')
            .set({
              email: profile.email,
              realname: profile.realname,
              comment: profile.comment,
              updated_at: deed.now,
            })
            .where('id', '=', id)
            .execute()
          return { admin: user.sysadmin }
        })
      } catch (error) {
        if (isUniqueViolation(error)) throw taken()
        throw error
      }
    },

    /** Every proof of the old password ends with the event. Returns false when there is no such account. */
    setPassword(
      id: number,
      passwordHash: string,
      deed: { readonly actor: AuditActor; readonly now: Date },
    ): Promise<boolean> {
      return change(id, { ...deed, description: 'password' }, async (trx, user) => {
        await trx
          .updateTable('users')
          .set({ password_hash: passwordHash, updated_at: deed.now })
          .where('id', '=', id)
          .execute()
        return { admin: user.sysadmin }
      })
    },

    /** Makes a person a system administrator, or one no more. Returns false when there is no such account. */
    setSysadmin(
      id: number,
      sysadmin: boolean,
      deed: { readonly actor: AuditActor; readonly now: Date },
    ): Promise<boolean> {
      const description = sysadmin
        ? 'made a system administrator'
        : 'no system administrator any more'
      return change(id, { ...deed, description }, async (trx) => {
        await trx
          .updateTable('users')
          .set({ sysadmin, updated_at: deed.now })
          .where('id', '=', id)
          .execute()
        return { admin: sysadmin }
      })
    },

    /** Deletes an account. Its name is free again. Returns false when there is none. */
    remove(id: number, actor: AuditActor, now: Date): Promise<boolean> {
      return records.transaction().execute(async (trx) => {
        const user = await lockUser(trx, id)
        if (user === undefined) return false
        await trx
          .updateTable('users')
          .set({ deleted_at: now, deletion_id: randomUUID() })
          .where('id', '=', id)
          .execute()
        await appendAudit(
          trx,
          userAudit({ actor, operation: 'delete', user, description: '' }),
          now,
        )
        await appendEvents(trx, [{ type: 'user-deleted', userId: id }], now)
        return true
      })
    },
  }
}

async function lockUser(trx: Transaction<Schema>, id: number): Promise<User | undefined> {
  const row = await trx
    .selectFrom('users')
    .select(columns)
    .where('id', '=', id)
    .where('deleted_at', 'is', null)
    .forNoKeyUpdate()
    .executeTakeFirst()
  return row && readUser(row)
}

function readUser(row: Pick<Selectable<UsersTable>, (typeof columns)[number]>): User {
  const { created_at: createdAt, updated_at: updatedAt, ...user } = row
  return { ...user, createdAt, updatedAt }
}

function userAudit(deed: {
  readonly actor: AuditActor
  readonly operation: AuditOperation<'user'>
  readonly user: { readonly username: string }
  readonly description: string
}): AuditEntry {
  const { actor, operation, user, description } = deed
  return { actor, operation, resourceType: 'user', resource: user.username, description }
}

function taken(): ApiError {
  return new ApiError('CONFLICT', 'another account has this user name or e-mail address')
}
