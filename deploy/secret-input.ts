import { createInterface } from 'node:readline/promises'
import { Writable, type Readable } from 'node:stream'
import { readSecretFile } from '../shared/files/text-file.ts'
import { StartError } from './start-errors.ts'

/** Where a command asks people, and reads what is piped into it. */
export interface Terminal {
  readonly input: Readable & { readonly isTTY?: boolean }
  readonly output: Writable
}

interface SecretInput {
  /** The file that holds it, where one was named. */
  readonly file: string | undefined
  /** What a person is asked. */
  readonly question: string
  /** What to do when there is nothing. */
  readonly missing: string
}

/** More than any secret of ours has. */
const maxLength = 4096

/** This process's own; questions go to standard error, where no `> file` takes them. */
function ownTerminal(): Terminal {
  return { input: process.stdin, output: process.stderr }
}

/**
 * A secret from its file, else from what is piped in, else typed by a person, who does not see it. Arguments and
 * environments are shown to others; these are not.
 * @throws StartError when there is none
 */
export async function readSecret(
  { file, question, missing }: SecretInput,
  terminal: Terminal = ownTerminal(),
): Promise<string> {
  if (file !== undefined) return readSecretFile(file)
  const given =
    terminal.input.isTTY === true ? await askHidden(question, terminal) : await readAll(terminal)
  const secret = given.trim()
  if (secret === '') throw new StartError(missing)
  return secret
}

/**
 * Asks a person for a yes; anything else is a no.
 * @throws StartError when there is nobody to ask
 */
export async function confirm(
  question: string,
  {
    otherwise,
    terminal = ownTerminal(),
  }: { readonly otherwise: string; readonly terminal?: Terminal },
): Promise<boolean> {
  if (terminal.input.isTTY !== true) throw new StartError(otherwise)
  const answer = await ask(terminal, { echo: terminal.output, question: `${question} [y/N] ` })
  return /^y(?:es)?$/i.test(answer.trim())
}

async function askHidden(question: string, terminal: Terminal): Promise<string> {
  terminal.output.write(question)
  const nowhere = new Writable({ write: (_chunk, _encoding, done) => done() })
  try {
    return await ask(terminal, { echo: nowhere })
  } finally {
    terminal.output.write('\n')
  }
}

/** One line. Ctrl-C and Ctrl-D end the command: nothing was entered. */
async function ask(
  { input }: Terminal,
  { echo, question = '' }: { readonly echo: Writable; readonly question?: string },
): Promise<string> {
  const lines = createInterface({ input, output: echo, terminal: true })
  const stopped = new AbortController()
  lines.on('SIGINT', () => stopped.abort())
  lines.on('close', () => stopped.abort())
  try {
    return await lines.question(question, { signal: stopped.signal })
  } catch (cause) {
    if (!stopped.signal.aborted) throw cause
    throw new StartError('nothing was entered', { cause })
  } finally {
    lines.close()
  }
}

async function readAll({ input }: Terminal): Promise<string> {
  let text = ''
  for await (const chunk of input) {
    text += String(chunk)
    if (text.length > maxLength)
      throw new StartError(`more than ${maxLength} characters on standard input are no secret`)
  }
  return text
}
