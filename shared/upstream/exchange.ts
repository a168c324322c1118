import { SourceError } from '../stream/blob-source.ts'
import type { Access, Authenticator } from './bearer.ts'
import { errorOfStatus } from './outcome.ts'

/** The head of an answer. */
export interface AnswerHead {
  readonly status: number
  /** Names in lower case; several values of one name joined by a comma. */
  readonly headers: Readonly<Record<string, string>>
}

/** How requests of one kind are sent, small ones or blobs. */
export interface Line<Answer extends AnswerHead> {
  /** @throws SourceError when there is no answer */
  send(url: URL, headers: Readonly<Record<string, string>>): Promise<Answer>
  /** Gives up an answer whose body nobody reads. */
  discard(answer: Answer): void
}

export interface Asked {
  readonly url: URL
  readonly access: Access
  /** For every host on the way. */
  readonly headers: Readonly<Record<string, string>>
  /** For the upstream's own origin only; `authorization` is added to them. */
  readonly ownHeaders: Readonly<Record<string, string>>
  /** Redirects to follow. */
  readonly redirects: number
  readonly signal: AbortSignal | undefined
}

/** Why an answer came from where it did. */
export interface Arrived<Answer extends AnswerHead> {
  readonly answer: Answer
  /** From another origin than was asked: storage behind a redirect. */
  readonly elsewhere: boolean
}

/** Registries send clients to their storage; a few, with manifests too, to the registry behind them. */
export const maxRedirects = 5

const redirectStatus: ReadonlySet<number> = new Set([301, 302, 303, 307, 308])

/**
 * Asks an upstream, and logs in when it wants that: with the credential it was given, once; a 401 to a fresh
 * log-in is final. Redirects are followed with no header of ours outside the upstream's origin.
 * @returns an answer of any status but 401
 * @throws SourceError
 */
export async function exchange<Answer extends AnswerHead>(
  asked: Asked,
  authenticator: Authenticator,
  line: Line<Answer>,
): Promise<Arrived<Answer>> {
  const { access, signal } = asked
  let authorization = authenticator.known(access)
  for (let fresh = false; ;) {
    const arrived = await follow(asked, authorization, line)
    const { status, headers } = arrived.answer
    if (status !== 401) return arrived
    line.discard(arrived.answer)
    if (arrived.elsewhere)
      throw new SourceError('unavailable', 'the storage behind it answered 401')
    if (fresh) throw errorOfStatus(authenticator.name, status)
    const challenge = headers['www-authenticate']
    const login = await orAborted(authenticator.answer(challenge, access, authorization), signal)
    authorization = login.authorization
    fresh = login.fresh
  }
}

async function follow<Answer extends AnswerHead>(
  asked: Asked,
  authorization: string | undefined,
  line: Line<Answer>,
): Promise<Arrived<Answer>> {
  const own = {
    ...asked.headers,
    ...asked.ownHeaders,
    ...(authorization !== undefined && { authorization }),
  }
  let url = asked.url
  for (let hops = 0; ; hops++) {
    const elsewhere = url.origin !== asked.url.origin
    const answer = await line.send(url, elsewhere ? asked.headers : own)
    if (asked.redirects === 0 || !redirectStatus.has(answer.status)) return { answer, elsewhere }
    line.discard(answer)
    if (hops === asked.redirects)
      throw new SourceError('broken', `${asked.url.host} redirects more than ${hops} times`)
    url = nextHop(url, answer.headers['location'])
  }
}

/** What a redirect names is the far side's word: the guard looks at it again when it is dialled. */
function nextHop(from: URL, location: string | undefined): URL {
  const next = location === undefined ? null : URL.parse(location, from.href)
  if (next === null) throw new SourceError('broken', `${from.host} redirects to nowhere`)
  const isWeaker = from.protocol === 'https:' && next.protocol !== 'https:'
  const isHttp = next.protocol === 'https:' || next.protocol === 'http:'
  if (isWeaker || !isHttp || next.username !== '' || next.password !== '') {
    const target = `${next.protocol}//${next.host}`
    throw new SourceError('broken', `${from.host} redirects to ${target}, which is not followed`)
  }
  return next
}

/** @throws the signal's reason when it aborts first; the promise then goes on by itself */
async function orAborted<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return promise
  return new Promise<T>((resolve, reject) => {
    const abort = () => reject(signal.reason as Error)
    if (signal.aborted) abort()
    signal.addEventListener('abort', abort, { once: true })
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort))
  })
}
