import type { EdgeReport } from '../../shared/replication/lease.ts'

/** Of what kind it is: each is remembered by itself, and is over by itself. */
export type TroubleKind = 'log' | 'rules' | 'disk'

/** What went wrong here last, for the primary's list of edges. */
export interface Trouble {
  /**
   * Something went wrong.
   * @param options.isOver it was seen once, and is not known to last
   */
  note(kind: TroubleKind, error: unknown, options?: { readonly isOver?: boolean }): void
  /** It works again. */
  over(kind: TroubleKind): void
  /** What lasts, the newest first; else what is over. */
  last(): Pick<EdgeReport, 'lastError' | 'lastErrorAt' | 'lastErrorIsOver'>
}

interface Noted {
  readonly text: string
  readonly at: number
  readonly isOver: boolean
}

const names: Readonly<Record<TroubleKind, string>> = {
  log: 'events of the primary',
  rules: 'what rules bring',
  disk: 'disk',
}
/** The primary takes 512 characters. */
const longest = 400

/** @param now epoch ms by this machine's clock */
export function createTrouble(now: () => number): Trouble {
  const noted = new Map<TroubleKind, Noted>()
  return {
    note(kind, error, { isOver = false } = {}) {
      noted.set(kind, { text: `${names[kind]}: ${textOf(error)}`, at: now(), isOver })
    },
    over(kind) {
      const known = noted.get(kind)
      if (known !== undefined) noted.set(kind, { ...known, isOver: true })
    },
    last() {
      const [newest] = [...noted.values()].sort(
        (one, other) => Number(one.isOver) - Number(other.isOver) || other.at - one.at,
      )
      if (newest === undefined) return { lastError: '' }
      const { text, at, isOver } = newest
      return { lastError: text, lastErrorAt: at, lastErrorIsOver: isOver }
    },
  }
}

/** On one line, bounded, and without what may be a secret: a URL's user, and its query, which may be signed. */
function textOf(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error)
  return (
    message
      .replaceAll(/\b([a-z][a-z0-9+.-]*:\/\/)[^\s/?#]*@/gi, '$1…@')
      .replaceAll(/(:\/\/[^\s?#]*)[?#]\S*/g, '$1?…')
      // eslint-disable-next-line no-control-regex -- control characters are what is looked for
      .replaceAll(/[\u0000-\u001f\u007f]+/g, ' ')
      .slice(0, longest)
  )
}
