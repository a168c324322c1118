import type { EventFact } from '../../shared/replication/events.ts'

/** What a cache entry may depend on, as a string: `project:7`, `tag:12:latest`. */
export type Subject = string

/** The subjects that a fact changes: an entry that depends on one of them is dropped. */
export function subjectsOf(fact: EventFact): readonly Subject[] {
  switch (fact.type) {
    case 'project':
    case 'project-deleted':
      return [`project:${fact.projectId}`, `project-name:${fact.name}`]
    case 'repository':
    case 'repository-deleted':
      return [`repository:${fact.repositoryId}`, `repository-name:${fact.name}`]
    case 'manifest':
    case 'manifest-deleted':
      return [`manifest:${fact.repositoryId}:${fact.digest}`]
    case 'tag':
    case 'tag-deleted':
      return [`tag:${fact.repositoryId}:${fact.tag}`]
    case 'link-deleted':
      return [`link:${fact.repositoryId}:${fact.digest}`]
    case 'label':
    case 'label-deleted':
      return [`label:${fact.labelId}`]
    case 'manifest-labels':
      return [`manifest-labels:${fact.repositoryId}:${fact.digest}`]
    case 'member':
    case 'member-deleted':
      return [`member:${fact.projectId}:${fact.userId}`]
    case 'user':
    case 'user-deleted':
      return [`user:${fact.userId}`]
    case 'robot':
    case 'robot-deleted':
      return [`robot:${fact.robotId}`]
    case 'edge':
    case 'edge-deleted':
      return [`edge:${fact.edgeId}`]
    case 'rule':
    case 'rule-deleted':
      return [`rule:${fact.ruleId}`]
    case 'selected':
    case 'unselected':
      return [`selection:${fact.ruleId}:${fact.repositoryId}:${fact.digest}`]
    case 'preheat':
    case 'preheat-ended':
      return [`preheat:${fact.preheatId}`]
    case 'rules-followed':
    case 'piece-list':
      return []
    case 'key':
      return ['keys']
  }
}
