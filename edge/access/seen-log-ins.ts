import { createHmac, randomBytes } from 'node:crypto'
import type { BasicCredentials } from '../../shared/auth/basic.ts'
import type { Passwords } from '../../shared/auth/passwords.ts'
import { readAccountReach, type AccountReach } from '../../shared/auth/project-set.ts'
import type { TokenClaims } from '../../shared/auth/token.ts'
import { createLru } from '../../shared/memory/lru.ts'
import type { CacheIndex } from '../cache/cache-index.ts'

/** An account whose log-in the primary took, and what it said of it then. */
export interface SeenAccount {
  readonly subject: string
  /** When the primary took it, in epoch seconds by its clock, and in epoch ms by this edge's. */
  readonly issuedAt: number
  readonly takenAt: number
  readonly reach: AccountReach
}

/** Log-ins that the primary took at this edge, as far as they can be checked without it. */
export interface SeenLogIns {
  took(credentials: BasicCredentials, answer: TakenLogIn): Promise<void>
  /** The primary does not take it: if it is what was seen, it was. */
  refused(credentials: BasicCredentials): Promise<void>
  /**
   * Who that is; undefined: it was not seen lately, or not with this password, which takes as long to find out.
   * @throws OciError UNAVAILABLE when too many passwords are being checked
   */
  check(credentials: BasicCredentials): Promise<SeenAccount | undefined>
  /** How many accounts are known that could log in now. */
  count(): number
  /** Writes what is not written yet. */
  flush(): Promise<void>
}

export interface TakenLogIn {
  readonly claims: Pick<TokenClaims, 'subject' | 'issuedAt'>
  readonly reach: AccountReach
}

export interface SeenLogInsDeps {
  readonly index: Pick<CacheIndex, 'document' | 'putDocument'>
  readonly passwords: Passwords
  /** How long a log-in counts after the primary took it, in ms. */
  readonly graceMs: number
  /** Epoch ms. */
  readonly now: () => number
}

interface SeenLogIn extends SeenAccount {
  readonly name: string
  /** scrypt of the password under this edge's own key. */
  readonly verifier: string
}

const documentName = 'seen-log-ins'
/** Accounts that are remembered: those that log in most lately. */
const maxAccounts = 1000
/** How much later than it was a restart may believe that a log-in was taken. */
const writeEveryMs = 5000
/** A clock that was set back by more says nothing of how long ago something was. */
const clockSlackMs = 60_000

/** Reads what was seen before, so that an edge that starts without its primary knows its clients. */
export function createSeenLogIns({ index, passwords, graceMs, now }: SeenLogInsDeps): SeenLogIns {
  const kept = readKept(index.document(documentName))
  const pepper = kept?.pepper ?? randomBytes(32).toString('base64')
  const seen = createLru<string, SeenLogIn>({ max: maxAccounts })
  for (const logIn of kept?.logIns ?? []) seen.set(logIn.name, logIn)
  // What was derived once in this process is not derived again: a thousand machines share a robot.
  const processKey = randomBytes(32)
  const proved = createLru<string, string>({ max: maxAccounts })
  let isWritten = true
  let timer: NodeJS.Timeout | undefined

  const write = async (): Promise<void> => {
    if (isWritten) return
    isWritten = true
    // The oldest first, as they are read.
    const logIns = [...seen.values()].reverse()
    await index.putDocument(documentName, { pepper, logIns })
  }
  /** A disk that is full forgets at the next restart, no sooner. */
  const writeSoon = (): void => {
    isWritten = false
    timer ??= setTimeout(() => {
      timer = undefined
      write().catch(() => undefined)
    }, writeEveryMs).unref()
  }
  const keyed = (password: string): string =>
    createHmac('sha256', pepper).update(password).digest('base64')
  const markOf = ({ username, password }: BasicCredentials): string =>
    createHmac('sha256', processKey)
      .update(JSON.stringify([username, password]))
      .digest('base64')
  const isInGrace = ({ takenAt, reach }: SeenLogIn): boolean => {
    const age = now() - takenAt
    return age < graceMs && age > -clockSlackMs && now() < (reach.endsAt ?? Infinity)
  }
  const proves = async (
    credentials: BasicCredentials,
    logIn: SeenLogIn | undefined,
  ): Promise<boolean> => {
    const mark = markOf(credentials)
    if (logIn !== undefined && proved.get(mark) === logIn.verifier) return true
    if (!(await passwords.verify(keyed(credentials.password), logIn?.verifier))) return false
    if (logIn !== undefined) proved.set(mark, logIn.verifier)
    return true
  }

  return {
    async took(credentials, { claims: { subject, issuedAt }, reach }) {
      const { username: name, password } = credentials
      const before = seen.get(name)
      const mark = markOf(credentials)
      const isKnown = before !== undefined && proved.get(mark) === before.verifier
      const verifier = isKnown ? before.verifier : await passwords.hash(keyed(password))
      seen.set(name, { name, verifier, subject, issuedAt, takenAt: now(), reach })
      proved.set(mark, verifier)
      writeSoon()
    },
    async refused(credentials) {
      const logIn = seen.peek(credentials.username)
      if (logIn === undefined || !(await proves(credentials, logIn))) return
      if (seen.peek(credentials.username) !== logIn) return
      seen.delete(credentials.username)
      isWritten = false
      await write()
    },
    async check(credentials) {
      const logIn = seen.peek(credentials.username)
      const counts = logIn !== undefined && isInGrace(logIn)
      return (await proves(credentials, counts ? logIn : undefined)) ? logIn : undefined
    },
    count: () => [...seen.values()].filter(isInGrace).length,
    async flush() {
      clearTimeout(timer)
      await write()
    },
  }
}

interface Kept {
  readonly pepper: string
  readonly logIns: readonly SeenLogIn[]
}

/** undefined: nothing was kept, or by a version that kept something else. */
function readKept(value: unknown): Kept | undefined {
  if (typeof value !== 'object' || value === null || !('pepper' in value)) return undefined
  if (typeof value.pepper !== 'string' || !('logIns' in value)) return undefined
  const logIns = Array.isArray(value.logIns) ? value.logIns.filter(isSeenLogIn) : []
  return { pepper: value.pepper, logIns }
}

function isSeenLogIn(value: unknown): value is SeenLogIn {
  if (typeof value !== 'object' || value === null) return false
  const logIn = value as Partial<Record<keyof SeenLogIn, unknown>>
  return (
    typeof logIn.name === 'string' &&
    typeof logIn.verifier === 'string' &&
    typeof logIn.subject === 'string' &&
    typeof logIn.issuedAt === 'number' &&
    typeof logIn.takenAt === 'number' &&
    readAccountReach(logIn.reach) !== undefined
  )
}
