import type { TokenClaims } from '../../shared/auth/token.ts'
import type { EventFact } from '../../shared/replication/events.ts'

/** What the log says against tokens that were signed before it said so. */
export interface Revocations {
  /** Whether a right that a token names has ended, or changed, since it was signed. */
  isRevoked(claims: Pick<TokenClaims, 'subject' | 'issuedAt' | 'access'>): boolean
}

export interface RevocationRecords {
  /** When tokens of this subject last lost their worth, in epoch ms by the primary's clock. */
  revokedAt(subject: string): number | undefined
}

/** Of everybody: what happened meanwhile is not known, only what is so now. */
export const everyone = '*'

/** Of all who are not named: a project that was open to them is no longer. */
const anyoneIn = (projectId: number) => `project:${projectId}`

/**
 * Whose tokens a fact takes the worth from. A member's role, a robot's rights and a person's account may each have
 * shrunk: they get new tokens, by what is true now.
 */
export function revokedBy(fact: EventFact): string | undefined {
  switch (fact.type) {
    case 'robot':
    case 'robot-deleted':
      return `robot:${fact.robotId}`
    case 'user':
    case 'user-deleted':
    case 'member':
    case 'member-deleted':
      return `user:${fact.userId}`
    case 'project':
      return fact.public ? undefined : anyoneIn(fact.projectId)
    case 'project-deleted':
      return anyoneIn(fact.projectId)
    default:
      return undefined
  }
}

export function createRevocations({ revokedAt }: RevocationRecords): Revocations {
  return {
    isRevoked({ subject, issuedAt, access }) {
      const isAfter = (of: string): boolean => issuedAt * 1000 <= (revokedAt(of) ?? -Infinity)
      return (
        isAfter(everyone) ||
        isAfter(subject) ||
        access.some(({ project }) => project !== undefined && isAfter(anyoneIn(project)))
      )
    },
  }
}
