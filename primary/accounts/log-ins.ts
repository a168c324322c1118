import { createHmac, randomBytes } from 'node:crypto'
import type { BasicCredentials } from '../../shared/auth/basic.ts'
import { isAcceptablePassword, type Passwords } from '../../shared/auth/passwords.ts'
import { createLru } from '../../shared/memory/lru.ts'
import { OciError } from '../../shared/oci/errors.ts'
import { accountKindOf, isExpired, type Account } from './account.ts'
import type { FindAccount } from './find-account.ts'
import type { AuditEntry } from '../store/audit.ts'
import type { LogInLimit, LogInOrigin } from '../../shared/auth/log-in-limit.ts'

export interface LogInsDeps {
  /** Reads the account as it is now. */
  readonly findAccount: FindAccount
  /** The account as it is remembered, for as long as the log of events allows; `find` is asked when it is not. */
  readonly recallAccount?: (name: string, find: FindAccount) => Promise<Account | undefined>
  readonly passwords: Passwords
  readonly limit: LogInLimit
  /** How many refusals that cost nothing are written down, by where they come from. */
  readonly refusals: LogInLimit
  readonly appendAudit: (entry: AuditEntry, now: Date) => Promise<void>
  /** Epoch ms. */
  readonly now: () => number
  /** How many proved log-ins are remembered. */
  readonly cacheEntries?: number
}

export interface LogIns {
  /**
   * Checks a name and a secret. What was proved within the last minute is not derived again.
   * @returns undefined when they are wrong, after the same time and trace for any reason
   * @throws OciError TOOMANYREQUESTS with Retry-After after too many failures, UNAVAILABLE under a flood
   */
  logIn(credentials: BasicCredentials, origin: LogInOrigin): Promise<Account | undefined>
  /**
   * The same for requests that carry their log-in each time: what was proved needs no query, and the
   * account may be as it was up to a second ago. Anything else costs one query, as `logIn` does.
   */
  logInAgain(credentials: BasicCredentials, origin: LogInOrigin): Promise<Account | undefined>
  /** Writes down a log-in that is refused without a look at a secret; of a flood, how it began. */
  noteRefusal(refused: RefusedLogIn): Promise<void>
}

/** A log-in that is refused. */
export interface RefusedLogIn {
  /** '' when nobody knows. */
  readonly username: string
  /** Whether that is an account's name; else it may be anything that somebody typed. */
  readonly isKnown: boolean
  readonly origin: LogInOrigin
  readonly description: string
}

const provedForMs = 60_000
/** No account's name is longer, and the database takes no NUL. */
const maxNameLength = 512

/** Log-ins of people, robots and edges by name and secret. Refused ones are in the audit log. */
export function createLogIns(deps: LogInsDeps): LogIns {
  const { findAccount, passwords, limit, now } = deps
  const key = randomBytes(32)
  /** When each was proved. */
  const proved = createLru<string, number>({ max: deps.cacheEntries ?? 10_000 })
  const running = new Map<string, Promise<boolean>>()

  const isProved = (mark: string): boolean => {
    const at = proved.get(mark)
    return at !== undefined && now() - at < provedForMs
  }

  const write = (refused: RefusedLogIn): Promise<void> =>
    deps.appendAudit(refusalEntry(refused), new Date(now()))

  async function check(
    credentials: BasicCredentials,
    { account, origin, mark }: { account: Account | undefined; origin: LogInOrigin; mark: string },
  ): Promise<boolean> {
    const { username, password } = credentials
    const refuse = (description: string): Promise<void> =>
      write({ username, isKnown: account !== undefined, origin, description })
    const tried = limit.take(username, origin)
    if (!tried.allowed) {
      if (tried.first) await refuse('too many failed log-ins')
      throw tooMany(tried.retryAfterSeconds)
    }
    let failed = false
    try {
      failed = !(await passwords.verify(password, account?.secretHash))
    } finally {
      // Who was turned away before the secret was looked at has not failed.
      tried.settle({ failed })
    }
    if (failed) await refuse('wrong name or secret')
    else proved.set(mark, now())
    return !failed
  }

  /** undefined: there is none, or it has expired since it was read. */
  async function read(
    find: FindAccount,
    { username }: BasicCredentials,
  ): Promise<Account | undefined> {
    if (username.length > maxNameLength || username.includes('\0')) return undefined
    const account = await find(username)
    return account !== undefined && isExpired(account.facts, now()) ? undefined : account
  }

  /** The stored hash is part of the mark: a changed secret leaves no proof behind. */
  const markOf = (credentials: BasicCredentials, account: Account | undefined): string =>
    createHmac('sha256', key)
      .update(JSON.stringify([credentials, account?.secretHash ?? '', account?.caller.id ?? '']))
      .digest('base64')

  /** @param account as it was read for this log-in */
  async function prove(
    credentials: BasicCredentials,
    { account, origin }: { account: Account | undefined; origin: LogInOrigin },
  ): Promise<Account | undefined> {
    const mark = markOf(credentials, account)
    if (account !== undefined && isProved(mark)) return account
    // Clients log in by several connections at once: one derivation, and one try, answers them all.
    const flight = JSON.stringify([mark, origin.address, origin.edge])
    const joined = running.get(flight)
    const checking = joined ?? check(credentials, { account, origin, mark })
    if (joined === undefined) {
      running.set(flight, checking)
      void checking.catch(() => undefined).finally(() => running.delete(flight))
    }
    return (await checking) ? account : undefined
  }

  async function logIn(
    credentials: BasicCredentials,
    origin: LogInOrigin,
  ): Promise<Account | undefined> {
    return prove(credentials, { account: await read(findAccount, credentials), origin })
  }

  async function logInAgain(
    credentials: BasicCredentials,
    origin: LogInOrigin,
  ): Promise<Account | undefined> {
    const { recallAccount } = deps
    if (recallAccount === undefined) return logIn(credentials, origin)
    let isRemembered = true
    const find: FindAccount = (name) => {
      isRemembered = false
      return findAccount(name)
    }
    const account = await read((name) => recallAccount(name, find), credentials)
    if (account !== undefined && isProved(markOf(credentials, account))) return account
    // What is remembered may be older than a changed secret; what was just read is not.
    if (isRemembered) return logIn(credentials, origin)
    return prove(credentials, { account, origin })
  }

  async function noteRefusal(refused: RefusedLogIn): Promise<void> {
    // By place alone: whoever floods the log chooses the names.
    const tried = deps.refusals.take('', refused.origin)
    if (tried.allowed) {
      tried.settle({ failed: true })
      await write(refused)
    } else if (tried.first) {
      await write({ ...refused, username: '', description: 'many more refused log-ins' })
    }
  }

  return { logIn, logInAgain, noteRefusal }
}

function tooMany(retryAfterSeconds: number): OciError {
  return new OciError(
    'TOOMANYREQUESTS',
    `too many failed log-ins of this account from this address: try again in ${retryAfterSeconds} seconds`,
    { headers: { 'Retry-After': String(retryAfterSeconds) } },
  )
}

/** What the audit log says of a refused log-in: never the secret. */
function refusalEntry({ username, isKnown, origin, description }: RefusedLogIn): AuditEntry {
  const name = isKnown ? username : safeName(username)
  return {
    actor: { username: name, address: origin.address },
    operation: 'login',
    resourceType: accountKindOf(username),
    resource: name,
    succeeded: false,
    description,
  }
}

/** People type passwords into the field for the name: a text that could be one is not written down. */
function safeName(name: string): string {
  return isAcceptablePassword(name) ? '(not recorded: it reads like a password)' : name
}
