(* Section 5 of the paper: equivalent rewards, Lemmas 1 and 2, Theorem 1, (8), (9), (10). *)

From Coq Require Import Reals List Lra.
From DPO Require Import Sums Section3 Section4.
Import ListNotations.
Open Scope R_scope.

Section Definitions.
  Context {X Y : Type}.
  Variable answers : list Y.
  Variable pi_ref : X -> Y -> R.
  Variable beta : R.

  (* Definition 1 *)
  Definition equivalent (r r' : X -> Y -> R) : Prop :=
    exists f : X -> R, forall x y, In y answers -> r x y - r' x y = f x.

  (* (18), for the order in which the answers are listed, the best first. *)
  Fixpoint plackett_luce (r : X -> Y -> R) (x : X) (order : list Y) : R :=
    match order with
    | [] => 1
    | y :: rest =>
        exp (r x y) / sum order (fun y => exp (r x y)) * plackett_luce r x rest
    end.

  (* (8) *)
  Definition projection (r : X -> Y -> R) (x : X) (y : Y) : R :=
    r x y - beta * ln (sum answers (fun y => pi_ref x y * exp (r x y / beta))).

  (* The assumption of A.6. *)
  Definition positive (p : X -> Y -> R) : Prop := forall x y, In y answers -> 0 < p x y.
End Definitions.

Section Classes.
  Context {X Y : Type}.
  Variable answers : list Y.
  Local Notation equivalent := (@equivalent X Y answers).

  (* Definition 1 is an equivalence relation. *)
  Theorem equivalence_is_reflexive r : equivalent r r.
  Proof. exists (fun _ => 0). intros. ring. Qed.

  Theorem equivalence_is_symmetric r r' : equivalent r r' -> equivalent r' r.
  Proof. intros [f H]. exists (fun x => - f x). intros x y I. rewrite <- (H x y I). ring. Qed.

  Theorem equivalence_is_transitive r r' r'' :
    equivalent r r' -> equivalent r' r'' -> equivalent r r''.
  Proof.
    intros [f H] [g K]. exists (fun x => f x + g x). intros x y I.
    rewrite <- (H x y I), <- (K x y I). ring.
  Qed.

  (* It means that the rewards have the same differences. *)
  Theorem equivalence_means_equal_gaps r r' :
    equivalent r r' <->
    forall x y1 y2, In y1 answers -> In y2 answers -> r x y1 - r x y2 = r' x y1 - r' x y2.
  Proof.
    split.
    - intros [f H] x y1 y2 I1 I2. pose proof (H x y1 I1). pose proof (H x y2 I2). lra.
    - intro H. unfold Section5.equivalent. destruct answers as [|y0 l].
      + exists (fun _ => 0). intros x y [].
      + exists (fun x => r x y0 - r' x y0). intros x y I.
        pose proof (H x y y0 I (or_introl eq_refl)). lra.
  Qed.

  (* Lemma 1: equivalent rewards give the same distribution over orders, for any of the
     answers. *)
  Theorem lemma_1 r r' x order :
    equivalent r r' -> incl order answers -> plackett_luce r x order = plackett_luce r' x order.
  Proof.
    intros [f H]. induction order as [|y order IH]; intro I; [reflexivity|].
    assert (E : forall z, In z (y :: order) -> exp (r x z) = exp (f x) * exp (r' x z)).
    { intros z K. rewrite <- exp_plus. f_equal. rewrite <- (H x z (I z K)). ring. }
    simpl plackett_luce. rewrite IH by (intros z K; apply I; now right).
    assert (S : sum (y :: order) (fun y => exp (r x y)) =
                exp (f x) * sum (y :: order) (fun y => exp (r' x y)))
      by (rewrite (sum_ext _ _ _ E); apply sum_scal).
    simpl sum in S. rewrite S, (E y) by now left.
    assert (0 <= sum order (fun y => exp (r' x y)))
      by (apply sum_nonneg; intros; left; apply exp_pos).
    pose proof (exp_pos (f x)). pose proof (exp_pos (r' x y)). field. lra.
  Qed.

  (* ... and the same preferences (1). *)
  Theorem lemma_1_for_pairs r r' x y1 y2 :
    equivalent r r' -> In y1 answers -> In y2 answers ->
    bradley_terry r x y1 y2 = bradley_terry r' x y1 y2.
  Proof.
    intros E I1 I2. apply preference_depends_on_the_gap_only.
    now apply equivalence_means_equal_gaps.
  Qed.

  (* The converse holds too: rewards with the same preferences (1) are equivalent. *)
  Theorem lemma_1_converse r r' :
    (forall x y1 y2, In y1 answers -> In y2 answers ->
       bradley_terry r x y1 y2 = bradley_terry r' x y1 y2) ->
    equivalent r r'.
  Proof.
    intro H. apply equivalence_means_equal_gaps. intros x y1 y2 I1 I2.
    now apply preference_depends_on_the_gap_only, H.
  Qed.
End Classes.

Section Statements.
  Context {X Y : Type}.
  Variables (answers : list Y) (pi_ref : X -> Y -> R) (beta : R).
  Hypothesis pi_ref_policy : forall x, policy answers (pi_ref x).
  Hypothesis beta_positive : 0 < beta.
  Local Notation Z := (Z answers pi_ref beta).
  Local Notation pi_r := (pi_r answers pi_ref beta).
  Local Notation J := (J answers pi_ref beta).
  Local Notation implicit_reward := (implicit_reward pi_ref beta).
  Local Notation equivalent := (@equivalent X Y answers).
  Local Notation projection := (projection answers pi_ref beta).
  Local Notation positive := (@positive X Y answers).

  Lemma projection_is_a_shift r x y : projection r x y = r x y - beta * ln (Z r x).
  Proof. reflexivity. Qed.

  Lemma Z_of_a_class r r' f x :
    (forall y, In y answers -> r x y - r' x y = f x) -> Z r x = exp (f x / beta) * Z r' x.
  Proof.
    intro H. unfold Section4.Z. rewrite <- sum_scal. apply sum_ext. intros y I.
    replace (r x y / beta) with (f x / beta + r' x y / beta)
      by (rewrite <- (H y I); field; lra).
    rewrite exp_plus. ring.
  Qed.

  (* Lemma 2: equivalent rewards have the same optimal policy. *)
  Theorem lemma_2 r r' x y :
    equivalent r r' -> In y answers -> pi_r r x y = pi_r r' x y.
  Proof.
    intros [f H] I. rewrite !pi_r_factors, (Z_of_a_class r r' f x (H x)).
    replace (r x y / beta) with (f x / beta + r' x y / beta)
      by (rewrite <- (H x y I); field; lra).
    rewrite exp_plus. pose proof (exp_pos (f x / beta)).
    pose proof (Z_positive answers pi_ref beta pi_ref_policy r' x). field. lra.
  Qed.

  (* The converse holds where the reference is positive. *)
  Theorem lemma_2_converse r r' :
    positive pi_ref -> (forall x y, In y answers -> pi_r r x y = pi_r r' x y) ->
    equivalent r r'.
  Proof.
    intros P H. exists (fun x => beta * ln (Z r x) - beta * ln (Z r' x)). intros x y I.
    pose proof (reward_from_its_policy answers pi_ref beta pi_ref_policy beta_positive r x y
      (P x y I)) as E.
    pose proof (reward_from_its_policy answers pi_ref beta pi_ref_policy beta_positive r' x y
      (P x y I)) as E'.
    rewrite (H x y I) in E. lra.
  Qed.

  (* Theorem 1: every class has a member that is the implicit reward of a policy. *)
  Theorem theorem_1 r :
    positive pi_ref ->
    exists pi, (forall x, policy answers (pi x)) /\ positive pi /\
      equivalent r (implicit_reward pi).
  Proof.
    intro P. exists (pi_r r). split; [intro x; now apply pi_r_is_policy|].
    split; [intros x y I; apply pi_r_positive; auto|].
    exists (fun x => beta * ln (Z r x)). intros x y I.
    pose proof (reward_from_its_policy answers pi_ref beta pi_ref_policy beta_positive r x y
      (P x y I)) as E.
    unfold Section4.implicit_reward. lra.
  Qed.

  (* (8) stays in the class, takes all of a class to one reward, and leaves that where it is. *)
  Theorem projection_is_equivalent r : equivalent r (projection r).
  Proof.
    exists (fun x => beta * ln (Z r x)). intros. rewrite projection_is_a_shift. ring.
  Qed.

  Theorem projection_is_one_for_a_class r r' x y :
    equivalent r r' -> In y answers -> projection r x y = projection r' x y.
  Proof.
    intros [f H] I. rewrite !projection_is_a_shift, (Z_of_a_class r r' f x (H x)).
    rewrite ln_mult, ln_exp
      by (try apply exp_pos; now apply Z_positive).
    rewrite Rmult_plus_distr_l. replace (beta * (f x / beta)) with (f x) by (field; lra).
    rewrite <- (H x y I). ring.
  Qed.

  Theorem projection_is_idempotent r x y :
    In y answers -> projection (projection r) x y = projection r x y.
  Proof.
    intro I. apply projection_is_one_for_a_class; [|exact I].
    apply equivalence_is_symmetric, projection_is_equivalent.
  Qed.

  (* (9): its partition function is one, and the summands are (4). *)
  Theorem projection_has_partition_one r x :
    sum answers (fun y => pi_ref x y * exp (projection r x y / beta)) = 1.
  Proof.
    pose proof (Z_positive answers pi_ref beta pi_ref_policy r x) as P.
    change (Z (projection r) x = 1).
    rewrite (Z_of_a_class _ r (fun x => - (beta * ln (Z r x))))
      by (intros; rewrite projection_is_a_shift; ring).
    replace (- (beta * ln (Z r x)) / beta) with (- ln (Z r x)) by (field; lra).
    rewrite exp_Ropp, exp_ln by exact P. field. lra.
  Qed.

  Theorem projection_exponential_is_the_optimum r x y :
    pi_ref x y * exp (projection r x y / beta) = pi_r r x y.
  Proof.
    pose proof (Z_positive answers pi_ref beta pi_ref_policy r x) as P.
    rewrite projection_is_a_shift, pi_r_factors.
    replace ((r x y - beta * ln (Z r x)) / beta) with (r x y / beta - ln (Z r x))
      by (field; lra).
    now rewrite exp_minus, exp_ln.
  Qed.

  (* (9) selects: no other member of the class has partition function one. *)
  Theorem only_the_projection_has_partition_one r r' :
    equivalent r r' -> (forall x, Z r' x = 1) ->
    forall x y, In y answers -> r' x y = projection r x y.
  Proof.
    intros E H x y I. rewrite (projection_is_one_for_a_class r r' x y E I).
    rewrite projection_is_a_shift, H, ln_1. ring.
  Qed.

  (* (10): its bracket has the mean -beta KL(pi, pi_r) ... *)
  Theorem actor_critic_objective_is_a_divergence r pi x :
    policy answers (pi x) -> within answers (pi x) (pi_ref x) ->
    expectation answers (pi x)
      (fun y => projection r x y - beta * ln (pi x y / pi_ref x y)) =
    - beta * KL answers (pi x) (pi_r r x).
  Proof.
    intros P W. rewrite expectation_minus, expectation_scal.
    pose proof (objective_is_distance_to_the_optimum answers pi_ref beta pi_ref_policy
      beta_positive r pi x P W) as E.
    unfold Section3.J in E.
    assert (S : expectation answers (pi x) (projection r x) =
                expectation answers (pi x) (r x) - beta * ln (Z r x)).
    { rewrite <- (expectation_of_a_constant answers (pi x) (beta * ln (Z r x)) P) at 1.
      apply (expectation_minus answers (pi x) (r x) (fun _ => beta * ln (Z r x))). }
    rewrite S. unfold KL in *. unfold expectation in *. lra.
  Qed.

  (* ... and the term that it subtracts is the same for all policies: it ranks them as (3). *)
  Theorem actor_critic_objective_ranks_policies_alike r pi pi' x :
    policy answers (pi x) -> policy answers (pi' x) ->
    (J (projection r) pi x <= J (projection r) pi' x <-> J r pi x <= J r pi' x).
  Proof.
    assert (S : forall p, policy answers (p x) ->
      J (projection r) p x = J r p x - beta * ln (Z r x)).
    { intros p P. unfold Section3.J.
      assert (expectation answers (p x) (projection r x) =
              expectation answers (p x) (r x) - beta * ln (Z r x)); [|lra].
      rewrite <- (expectation_of_a_constant answers (p x) (beta * ln (Z r x)) P) at 1.
      apply (expectation_minus answers (p x) (r x) (fun _ => beta * ln (Z r x))). }
    intros P P'. rewrite !S by assumption. lra.
  Qed.
End Statements.

Definition coin : list bool := [true; false].

(* The slip: a scale keeps the class as a shift does. *)
Theorem definition_1_false_for_a_scale :
  ~ (forall (X Y : Type) (answers : list Y) (r : X -> Y -> R) a, 0 < a ->
       equivalent answers r (fun x y => a * r x y)).
Proof.
  intro H. specialize (H unit bool coin heads 2 ltac:(lra)).
  apply (proj1 (equivalence_means_equal_gaps _ _ _)) with (x := tt) (y1 := true) (y2 := false)
    in H; simpl in *; auto. lra.
Qed.

(* The slip: f of Definition 1 may depend on the answer. *)
Theorem definition_1_false_with_f_of_the_answer :
  ~ (forall (X Y : Type) (answers : list Y) (r r' : X -> Y -> R) (f : X -> Y -> R),
       (forall x y, In y answers -> r x y - r' x y = f x y) -> equivalent answers r r').
Proof.
  intro H. specialize (H unit bool coin heads (fun _ _ => 0) heads).
  destruct H as [f H]; [intros; ring|].
  pose proof (H tt true (or_introl eq_refl)).
  pose proof (H tt false (or_intror (or_introl eq_refl))). simpl in *. lra.
Qed.

(* The slip: a scale keeps the distribution over orders. *)
Theorem lemma_1_false_for_a_scale :
  ~ (forall (X Y : Type) (r : X -> Y -> R) a x order, 0 < a ->
       plackett_luce (fun x y => a * r x y) x order = plackett_luce r x order).
Proof.
  intro H. specialize (H unit bool heads 2 tt coin ltac:(lra)). simpl in H.
  rewrite Rmult_1_r, Rmult_0_r, !Rplus_0_r, exp_0 in H.
  replace (exp 2) with (exp 1 * exp 1) in H by (rewrite <- exp_plus; f_equal; ring).
  assert (E : bradley_terry (fun x y => 2 * heads x y) tt true false =
              bradley_terry heads tt true false).
  { unfold bradley_terry. simpl. rewrite Rmult_1_r, Rmult_0_r, exp_0.
    replace (exp 2) with (exp 1 * exp 1) by (rewrite <- exp_plus; f_equal; ring).
    unfold Rdiv in *. rewrite Rinv_1, !Rmult_1_r in H. exact H. }
  apply preference_depends_on_the_gap_only in E. simpl in E. lra.
Qed.

(* The slip: a scale keeps the optimal policy. *)
Theorem lemma_2_false_for_a_scale :
  ~ (forall (X Y : Type) (answers : list Y) (pi_ref : X -> Y -> R) beta r a x y,
       (forall x, policy answers (pi_ref x)) -> 0 < beta -> 0 < a -> In y answers ->
       pi_r answers pi_ref beta (fun x y => a * r x y) x y = pi_r answers pi_ref beta r x y).
Proof.
  intro H.
  assert (E : equivalent coin (fun x y => 2 * heads x y) heads).
  { apply (lemma_2_converse coin fair 1 fair_policies ltac:(lra)).
    - intros x [] _; simpl; lra.
    - intros x y I. apply H; auto using fair_policies; lra. }
  apply (proj1 (equivalence_means_equal_gaps _ _ _)) with (x := tt) (y1 := true) (y2 := false)
    in E; simpl in *; auto. lra.
Qed.

(* The slip: the converse of Lemma 2 where the reference has a zero. *)
Theorem lemma_2_converse_false_where_the_reference_is_zero :
  ~ (forall (X Y : Type) (answers : list Y) (pi_ref : X -> Y -> R) beta r r',
       (forall x, policy answers (pi_ref x)) -> 0 < beta ->
       (forall x y, In y answers ->
          pi_r answers pi_ref beta r x y = pi_r answers pi_ref beta r' x y) ->
       equivalent answers r r').
Proof.
  intro H.
  specialize (H unit bool coin heads 1 (fun _ y => if y then 0 else 1) (fun _ _ => 0)).
  assert (E : equivalent coin (fun (_ : unit) y => if y then 0 else 1) (fun _ _ => 0)).
  { apply H; [intros []; split; [intros [] _|]; simpl; lra | lra |].
    intros [] [] _; unfold pi_r, Z; simpl; pose proof (exp_pos (0 / 1)); field; lra. }
  apply (proj1 (equivalence_means_equal_gaps _ _ _)) with (x := tt) (y1 := true) (y2 := false)
    in E; simpl in *; auto. lra.
Qed.

(* The slip: the reward itself, not its class, is the implicit reward of a policy. *)
Theorem theorem_1_false_for_the_reward_itself :
  ~ (forall (X Y : Type) (answers : list Y) (pi_ref : X -> Y -> R) beta r,
       (forall x, policy answers (pi_ref x)) -> 0 < beta -> positive answers pi_ref ->
       exists pi, (forall x, policy answers (pi x)) /\
         forall x y, In y answers -> r x y = implicit_reward pi_ref beta pi x y).
Proof.
  intro H.
  specialize (H unit unit [tt] (fun _ _ => 1) 1 (fun _ _ => 1)).
  destruct H as (pi & P & H);
    [intros _; split; [intros; lra | simpl; lra] | lra | intros ? ? _; lra |].
  specialize (H tt tt (or_introl eq_refl)). unfold implicit_reward in H.
  destruct (P tt) as [_ S]. simpl in S. rewrite Rplus_0_r in S.
  rewrite S in H. unfold Rdiv in H. rewrite Rinv_1, Rmult_1_r, ln_1 in H. lra.
Qed.

(* The slip: the reference may have zeros. There the implicit reward is undefined on paper; in
   Coq it is 0 whatever the policy is. *)
Theorem theorem_1_false_where_the_reference_is_zero :
  ~ (forall (X Y : Type) (answers : list Y) (pi_ref : X -> Y -> R) beta r,
       (forall x, policy answers (pi_ref x)) -> 0 < beta ->
       exists pi, (forall x, policy answers (pi x)) /\
         equivalent answers r (implicit_reward pi_ref beta pi)).
Proof.
  intro H.
  set (answers := [None; Some true; Some false]).
  specialize (H unit (option bool) answers
    (fun _ y => match y with None => 1 | Some _ => 0 end) 1
    (fun _ y => match y with Some true => 1 | _ => 0 end)).
  destruct H as (pi & _ & E);
    [intros []; split; [intros [] _|]; simpl; lra | lra |].
  apply (proj1 (equivalence_means_equal_gaps _ _ _)) with
    (x := tt) (y1 := Some true) (y2 := Some false) in E; simpl; auto.
  unfold implicit_reward, Rdiv in E. rewrite Rinv_0, !Rmult_0_r, ln_of_zero in E. lra.
Qed.

(* The slip: the projection of a scaled reward is the scaled projection. *)
Theorem projection_false_for_a_scale :
  ~ (forall (X Y : Type) (answers : list Y) (pi_ref : X -> Y -> R) beta r a x y,
       (forall x, policy answers (pi_ref x)) -> 0 < beta -> 0 < a -> In y answers ->
       projection answers pi_ref beta (fun x y => a * r x y) x y =
       a * projection answers pi_ref beta r x y).
Proof.
  intro H.
  pose proof (H unit bool coin fair 1 heads 2 tt true fair_policies ltac:(lra) ltac:(lra)
    ltac:(simpl; auto)) as E.
  unfold projection, coin, fair in E. simpl in E.
  replace (2 * 1 / 1) with (1 + 1) in E by field. replace (2 * 0 / 1) with 0 in E by field.
  replace (1 / 1) with 1 in E by field. replace (0 / 1) with 0 in E by field.
  rewrite exp_plus, exp_0 in E. pose proof (exp_ineq1 1 ltac:(lra)) as K.
  set (e := exp 1) in *. set (s := 1 / 2 * e + (1 / 2 * 1 + 0)) in *.
  assert (L : ln (1 / 2 * (e * e) + (1 / 2 * 1 + 0)) = ln (s * s))
    by (rewrite ln_mult by (unfold s; lra); lra).
  assert (0 < e * e) by (apply Rmult_lt_0_compat; lra).
  apply ln_inv in L; [|lra|apply Rmult_lt_0_compat; unfold s; lra].
  assert (Q : (e - 1) * (e - 1) = 0) by (unfold s in L; lra).
  apply Rmult_integral in Q. lra.
Qed.

(* The slip: the member whose mean is zero has partition function one. *)
Theorem partition_one_false_for_the_normalised_reward :
  ~ (forall (X Y : Type) (answers : list Y) (pi_ref : X -> Y -> R) beta r x,
       (forall x, policy answers (pi_ref x)) -> 0 < beta ->
       expectation answers (pi_ref x) (r x) = 0 -> Z answers pi_ref beta r x = 1).
Proof.
  intro H.
  assert (E : Z coin fair 1 (fun _ y => if y then 1 else - (1)) tt = 1).
  { apply H; [apply fair_policies | lra | unfold expectation; simpl; lra]. }
  unfold Z in E. simpl in E. replace (1 / 1) with 1 in E by field.
  pose proof (exp_ineq1 1 ltac:(lra)). pose proof (exp_pos (- (1) / 1)). lra.
Qed.

(* The slip: (10) is the objective itself, without the soft value that it subtracts. *)
Theorem actor_critic_objective_false_as_the_objective :
  ~ (forall (X Y : Type) (answers : list Y) (pi_ref : X -> Y -> R) beta r pi x,
       (forall x, policy answers (pi_ref x)) -> 0 < beta ->
       policy answers (pi x) -> within answers (pi x) (pi_ref x) ->
       expectation answers (pi x) (fun y => projection answers pi_ref beta r x y
         - beta * ln (pi x y / pi_ref x y)) = J answers pi_ref beta r pi x).
Proof.
  intro H.
  assert (P : forall x : unit, policy [tt] (fun _ => 1))
    by (intros _; split; [intros; lra | simpl; lra]).
  assert (W : within [tt] (fun _ => 1) (fun _ => 1)) by (intros ? _ ?; lra).
  specialize (H unit unit [tt] (fun _ _ => 1) 1 (fun _ _ => 1) (fun _ _ => 1) tt P ltac:(lra)
    (P tt) W).
  unfold expectation, J, KL, expectation, projection in H. simpl in H.
  rewrite !Rmult_1_l, !Rplus_0_r, ln_exp in H.
  replace (1 / 1) with 1 in H by field. rewrite ln_1 in H. lra.
Qed.
