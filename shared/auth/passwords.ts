import { createHash, pbkdf2, randomBytes, randomInt, scrypt, timingSafeEqual } from 'node:crypto'
import { promisify } from 'node:util'
import { OciError } from '../oci/errors.ts'

const derivePbkdf2 = promisify(pbkdf2)

/** scrypt's costs: 2^`logN` × `blockSize` × 128 bytes of memory, `parallelism` times the work. [RFC 7914 §2] */
export interface ScryptCost {
  readonly logN: number
  readonly blockSize: number
  readonly parallelism: number
}

/** 32 MiB and about 0.2 s: OWASP's Password Storage Cheat Sheet, scrypt. */
const defaultCost: ScryptCost = { logN: 15, blockSize: 8, parallelism: 3 }

export interface PasswordsOptions {
  readonly cost?: ScryptCost | undefined
  /** Derivations at once. They run on libuv's threads, of which the file system needs some too. */
  readonly concurrency?: number
  /** Derivations that may wait; one more is refused with 503. */
  readonly waiting?: number
}

export interface Passwords {
  /**
   * The hash of a person's password, with its algorithm tag.
   * @throws OciError UNAVAILABLE when too many derivations wait
   */
  hash(password: string): Promise<string>
  /**
   * Whether the password has that hash; `undefined` stands for an account that does not exist. A refusal
   * costs a derivation for every kind of hash and for none, so its time tells nothing.
   * @throws OciError UNAVAILABLE when too many derivations wait
   */
  verify(password: string, hash: string | undefined): Promise<boolean>
}

/**
 * Hashes and verifies passwords off the event loop, in a bounded queue. Knows scrypt (ours), what
 * `hashGenerated` made, and PBKDF2 as passlib and Harbor store it (imported accounts).
 */
export function createPasswords(options: PasswordsOptions = {}): Passwords {
  const cost = options.cost ?? defaultCost
  const enter = createQueue(options.concurrency ?? 2, options.waiting ?? 64)

  const hash = (password: string): Promise<string> =>
    enter(async () => {
      const salt = randomBytes(16)
      return formatScrypt(cost, salt, await deriveScrypt(password, { cost, salt }))
    })

  const verify = (password: string, stored: string | undefined): Promise<boolean> => {
    const generated = stored === undefined ? undefined : matchesGenerated(password, stored)
    if (generated === true) return Promise.resolve(true)
    return enter(async () => {
      const isDerived = stored !== undefined && generated === undefined
      if (isDerived && (await matchesDerived(password, stored))) return true
      // Another kind of hash was cheaper, or there was none to derive: the answer must not come sooner for it.
      if (stored?.startsWith(formatCost(cost)) !== true) {
        await deriveScrypt(password, { cost, salt: randomBytes(16) })
      }
      return false
    })
  }
  return { hash, verify }
}

/**
 * The hash of a secret from `generateSecret`. Nobody can guess 190 random bits, so one SHA-256 is
 * enough, and a thousand nodes that log in at once by robots cost next to nothing.
 */
export function hashGenerated(secret: string): string {
  const salt = randomBytes(16).toString('base64url')
  return `$sha256$${salt}$${createHash('sha256').update(salt).update(secret).digest('base64url')}`
}

/** A random secret of 32 letters and digits, with an upper and a lower case letter and a digit in it. */
export function generateSecret(): string {
  const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789'
  for (;;) {
    const letters = Array.from({ length: 32 }, () => alphabet[randomInt(alphabet.length)] ?? 'A')
    const secret = letters.join('')
    if (isAcceptablePassword(secret)) return secret
  }
}

/** What a password must have: said to the user who chose another. [harbor src/server/v2.0/handler/user.go] */
export const passwordRule =
  'a password or secret has 8 to 128 characters, with at least one upper case letter, one lower case letter and one digit'

/** Whether a password has what `passwordRule` says. */
export function isAcceptablePassword(password: string): boolean {
  return (
    password.length >= 8 &&
    password.length <= 128 &&
    /[a-z]/.test(password) &&
    /[A-Z]/.test(password) &&
    /[0-9]/.test(password)
  )
}

function deriveScrypt(
  password: string,
  { cost, salt }: { cost: ScryptCost; salt: Buffer },
): Promise<Buffer> {
  const N = 2 ** cost.logN
  const { blockSize: r, parallelism: p } = cost
  const limits = { N, r, p, maxmem: 256 * N * r + 1024 * 1024 }
  return new Promise((resolve, reject) => {
    scrypt(password, salt, 32, limits, (error, key) => {
      if (error === null) resolve(key)
      else reject(error)
    })
  })
}

function formatScrypt(cost: ScryptCost, salt: Buffer, key: Buffer): string {
  return `${formatCost(cost)}${base64(salt)}$${base64(key)}`
}

/** How every hash of that cost begins. */
function formatCost({ logN, blockSize, parallelism }: ScryptCost): string {
  return `$scrypt$ln=${logN},r=${blockSize},p=${parallelism}$`
}

const scryptForm = /^\$scrypt\$ln=(\d{1,2}),r=(\d{1,2}),p=(\d{1,2})\$([\w+/]+)\$([\w+/]+)$/
/** passlib writes `.` for `+`. [passlib, pbkdf2_digest: Format & Algorithm] */
const passlibForm = /^\$pbkdf2-(sha256|sha512)\$(\d{1,8})\$([\w./]+)\$([\w./]+)$/
/** Harbor's columns password_version, iterations, salt and password (hex of 16 bytes) in one. [harbor src/common/utils/encrypt.go] */
const harborForm = /^\$harbor-pbkdf2-(sha1|sha256)\$(\d{1,8})\$([^$]*)\$([0-9a-f]{32})$/
const generatedForm = /^\$sha256\$([\w-]+)\$([\w-]+)$/

async function matchesDerived(password: string, stored: string): Promise<boolean> {
  const ours = scryptForm.exec(stored)
  if (ours !== null) {
    const [, logN, blockSize, parallelism, salt = '', key = ''] = ours
    const cost = {
      logN: Number(logN),
      blockSize: Number(blockSize),
      parallelism: Number(parallelism),
    }
    const derived = await deriveScrypt(password, { cost, salt: Buffer.from(salt, 'base64') })
    return matches(derived, Buffer.from(key, 'base64'))
  }
  const passlib = passlibForm.exec(stored)
  if (passlib !== null) {
    const [, digest = '', rounds, salt = '', key = ''] = passlib
    const wanted = Buffer.from(key.replaceAll('.', '+'), 'base64')
    const saltBytes = Buffer.from(salt.replaceAll('.', '+'), 'base64')
    return matches(
      await derivePbkdf2(password, saltBytes, Number(rounds), wanted.length, digest),
      wanted,
    )
  }
  const harbor = harborForm.exec(stored)
  if (harbor !== null) {
    const [, digest = '', rounds, salt = '', key = ''] = harbor
    return matches(
      await derivePbkdf2(password, salt, Number(rounds), 16, digest),
      Buffer.from(key, 'hex'),
    )
  }
  throw new Error('a stored password hash has an unknown form')
}

/** undefined: the hash is not of this kind. */
function matchesGenerated(secret: string, stored: string): boolean | undefined {
  const form = generatedForm.exec(stored)
  if (form === null) return undefined
  const [, salt = '', key = ''] = form
  const derived = createHash('sha256').update(salt).update(secret).digest()
  return matches(derived, Buffer.from(key, 'base64url'))
}

function matches(derived: Buffer, wanted: Buffer): boolean {
  return derived.length === wanted.length && timingSafeEqual(derived, wanted)
}

function base64(bytes: Buffer): string {
  return bytes.toString('base64').replaceAll('=', '')
}

/** Runs at most `concurrency` tasks at once; the others wait in order, `waiting` of them at most. */
function createQueue(
  concurrency: number,
  waiting: number,
): <T>(task: () => Promise<T>) => Promise<T> {
  let running = 0
  const queue: (() => void)[] = []
  return async (task) => {
    if (running >= concurrency) {
      if (queue.length >= waiting) {
        throw new OciError('UNAVAILABLE', 'too many log-ins at once: try again in a moment', {
          headers: { 'Retry-After': '1' },
        })
      }
      await new Promise<void>((resolve) => queue.push(resolve))
    } else {
      running += 1
    }
    try {
      return await task()
    } finally {
      const next = queue.shift()
      if (next === undefined) running -= 1
      else next()
    }
  }
}
