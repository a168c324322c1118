import { basename, dirname } from 'node:path'
import { ConfigError } from '../shared/config/problems.ts'

/** Why a program cannot start or a command cannot do its work: the message says in one line what to do. */
export class StartError extends Error {
  override readonly name = 'StartError'
}

/**
 * One line for people about whatever a start or a command threw: what is wrong and what to do about it.
 * The operating system's errors are explained, wherever they are in the chain of causes.
 */
export function describeFault(error: unknown): string {
  const chain = [...causes(error)]
  if (chain[0] instanceof StartError) return oneLine(chain[0].message)
  if (error instanceof ConfigError) return describeProblems(error)
  for (const cause of chain) {
    const explained = explainSystemError(cause)
    if (explained !== undefined) return explained
    // An error with a name of its own explains itself better than what it was caused by.
    if (cause instanceof Error && cause.name !== 'Error') break
  }
  return joinMessages(chain)
}

/** Every message of a chain, unless an outer one has it already. */
function joinMessages(chain: readonly unknown[]): string {
  return chain
    .map((cause) => oneLine(messageOf(cause)))
    .reduce((text, message) => (text.includes(message) ? text : `${text}: ${message}`))
}

function describeProblems({ problems }: ConfigError): string {
  const lines = problems.map(({ path, message }) => `${path}: ${message}`)
  return `the configuration is wrong: ${oneLine(lines.join('; '))}`
}

function* causes(error: unknown): Generator {
  for (let cause = error; cause !== undefined;) {
    yield cause
    cause = cause instanceof Error ? cause.cause : undefined
  }
}

interface SystemError {
  readonly code: string
  readonly path?: string
  readonly address?: string
  readonly port?: number
}

function explainSystemError(cause: unknown): string | undefined {
  if (!(cause instanceof Error) || !('code' in cause)) return undefined
  const error = cause as unknown as SystemError
  const where = error.path === undefined ? 'the data folder' : writtenPath(error.path)
  const address = formatAddress(error)
  const known: Readonly<Record<string, string>> = {
    EADDRINUSE: `port ${error.port ?? ''} is taken (${address}): stop what listens there, or choose another port`,
    EADDRNOTAVAIL: `cannot listen on ${address}: this machine has no such address; choose another`,
    ENOSPC: `the disk of ${where} is full: free some space, or choose another folder`,
    EDQUOT: `the disk quota of ${where} is used up: free some space, or choose another folder`,
    EROFS: `${where} is on a read-only file system: choose another folder`,
    ENOTDIR: `${where} lies below something that is not a folder: choose another path`,
    EMFILE: `too many open files: raise the limit (ulimit -n)`,
    ENFILE: `too many open files on this machine: raise fs.file-max`,
  }
  if (error.code === 'EACCES' || error.code === 'EPERM') {
    return error.port === undefined
      ? `${where} is not readable and writable for this user: change its owner or mode, or choose another`
      : `may not listen on ${address}: ports below 1024 need a privilege; choose another port`
  }
  return known[error.code]
}

/** The port may be any free one; the system then names none. */
function formatAddress({ address = '', port }: SystemError): string {
  if (!port) return address
  return address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`
}

/** The folder, where the file is one that only exists while it is being written. */
function writtenPath(path: string): string {
  return /^\..*\.tmp$/.test(basename(path)) ? dirname(path) : path
}

function messageOf(cause: unknown): string {
  if (!(cause instanceof Error)) return String(cause)
  if (cause instanceof AggregateError && cause.message === '') {
    return cause.errors.map(messageOf).join('; ')
  }
  return cause.message === '' ? cause.name : cause.message
}

function oneLine(text: string): string {
  return text.trim().replaceAll(/\s*\n\s*/g, ' ')
}
