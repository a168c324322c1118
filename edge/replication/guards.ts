import { matches, parsePattern, type Pattern } from '../../shared/match/doublestar.ts'
import type { KnownRule } from '../cache/statement-records.ts'

/** Which tags are held back until it is known what rules make of them. */
export interface Guards {
  /** @param movedSeq the event by which the tag moved */
  holds(repository: string, tag: string, movedSeq: number): boolean
}

interface Guard {
  readonly since: number
  readonly repositories: readonly Pattern[]
  readonly tags: readonly Pattern[]
}

/** @param rules those that select this edge */
export function createGuards(rules: Iterable<KnownRule>): Guards {
  const guards = [...rules].flatMap((rule) => readGuard(rule) ?? [])
  return {
    holds: (repository, tag, movedSeq) =>
      guards.some(
        ({ since, repositories, tags }) =>
          movedSeq > since &&
          repositories.every((pattern) => matches(pattern, repository)) &&
          tags.every((pattern) => matches(pattern, tag)),
      ),
  }
}

function readGuard({ enabled, guards, since = 0 }: KnownRule): Guard | undefined {
  if (!enabled || guards === undefined) return undefined
  return {
    since,
    repositories: guards.repositories.map(parsePattern),
    tags: guards.tags.map(parsePattern),
  }
}
