import type { Caller, CallerFacts } from './caller.ts'

/** An account that may log in: a person, a robot or an edge. */
export interface Account {
  readonly caller: Exclude<Caller, { readonly kind: 'anonymous' }>
  readonly facts: CallerFacts
  /** With its algorithm tag; undefined: no secret opens this account. */
  readonly secretHash: string | undefined
}

/** Robots log in by `robot$name` or `robot$project+name`. [harbor robot_name_prefix] */
export const robotPrefix = 'robot$'
/** Edges log in by `edge$id`. No person can have such a name: `$` is not allowed in it. */
export const edgePrefix = 'edge$'

/** Whether an account's facts, perhaps read a while ago, hold no more at `now` (epoch ms). */
export function isExpired(facts: CallerFacts, now: number): boolean {
  return facts.kind === 'robot' && facts.expiresAt !== undefined && facts.expiresAt <= now
}

/** What kind of account a log-in name belongs to. */
export function accountKindOf(name: string): Account['caller']['kind'] {
  if (name.startsWith(robotPrefix)) return 'robot'
  return name.startsWith(edgePrefix) ? 'edge' : 'user'
}

/** How an account stands in a token's `sub`, in cache subjects and in upload sessions: `user:7`. */
export function formatSubject(caller: Caller): string {
  return caller.kind === 'anonymous' ? '' : `${caller.kind}:${caller.id}`
}

/** The caller that a proved token's `sub` names; undefined when it is not one of ours. */
export function parseSubject(
  subject: string,
  { name, access }: { readonly name: string; readonly access: Caller['access'] },
): Caller | undefined {
  if (subject === '') return { kind: 'anonymous', access }
  const [, kind, id] = /^(user|robot|edge):(.+)$/.exec(subject) ?? []
  if (kind === undefined || id === undefined) return undefined
  if (kind === 'edge') return { kind, id, name, access }
  if (kind !== 'user' && kind !== 'robot') return undefined
  return /^[0-9]{1,10}$/.test(id) ? { kind, id: Number(id), name, access } : undefined
}
