(* Appendix A of the paper: (11) to (25), Proposition 1, and the slips of the paper. *)

From Coq Require Import Reals List Lra Permutation Factorial.
From DPO Require Import Sums Section3 Section4 Section5.
Import ListNotations.
Open Scope R_scope.

(* A.1 *)

Section A1.
  Context {X Y : Type}.
  Variables (answers : list Y) (pi_ref : X -> Y -> R) (beta : R).
  Hypothesis pi_ref_policy : forall x, policy answers (pi_ref x).
  Hypothesis beta_positive : 0 < beta.
  Local Notation Z := (Z answers pi_ref beta).
  Local Notation pi_r := (pi_r answers pi_ref beta).
  Local Notation J := (J answers pi_ref beta).
  Local Notation objective := (objective answers pi_ref beta).

  (* (11): the objective (3) as one expectation, at one prompt and over prompts. *)
  Theorem objective_is_one_expectation r pi x :
    J r pi x = expectation answers (pi x)
      (fun y => r x y - beta * ln (pi x y / pi_ref x y)).
  Proof. now rewrite expectation_minus, expectation_scal. Qed.

  Theorem objective_is_one_expectation_over_prompts prompts d r pi :
    objective prompts d r pi = expectation prompts d (fun x =>
      expectation answers (pi x) (fun y => r x y - beta * ln (pi x y / pi_ref x y))).
  Proof. apply sum_ext. intros x _. now rewrite objective_is_one_expectation. Qed.

  (* (12): divided by -beta, and log c added and subtracted. Any positive c will do. *)
  Theorem any_constant_may_be_added_and_subtracted c r pi x :
    0 < c -> policy answers (pi x) -> within answers (pi x) (pi_ref x) ->
    expectation answers (pi x)
      (fun y => ln (pi x y / (1 / c * pi_ref x y * exp (r x y / beta))) - ln c) =
    - J r pi x / beta.
  Proof.
    intros C P W. rewrite objective_is_one_expectation.
    replace (- expectation answers (pi x) (fun y => r x y - beta * ln (pi x y / pi_ref x y))
             / beta)
      with (- / beta * expectation answers (pi x)
             (fun y => r x y - beta * ln (pi x y / pi_ref x y))) by (field; lra).
    rewrite <- expectation_scal. apply expectation_ext; [exact P|]. intros y I Hy.
    pose proof (within_positive answers _ _ y (pi_ref_policy x) W I Hy) as R.
    pose proof (exp_pos (r x y / beta)) as E.
    pose proof (Rinv_0_lt_compat c C) as K.
    unfold Rdiv at 2. rewrite Rmult_1_l.
    pose proof (Rmult_lt_0_compat _ _ K R) as M.
    rewrite !ln_div, !ln_mult, ln_exp, ln_Rinv by (try apply Rmult_lt_0_compat; assumption).
    field. lra.
  Qed.

  (* ... but it makes a distribution of the denominator only if it is Z. *)
  Theorem only_the_partition_makes_a_distribution c r x :
    0 < c ->
    (policy answers (fun y => 1 / c * pi_ref x y * exp (r x y / beta)) <-> c = Z r x).
  Proof.
    intro C. split; [|intros ->; now apply pi_r_is_policy]. intros [_ S].
    rewrite (sum_ext _ _ (fun y => / c * (pi_ref x y * exp (r x y / beta)))) in S
      by (intros; unfold Rdiv; ring).
    rewrite sum_scal in S. fold (Z r x) in S.
    apply (Rmult_eq_reg_l (/ c)); [|apply Rgt_not_eq, Rinv_0_lt_compat, C].
    rewrite S. apply Rinv_l. lra.
  Qed.

  (* Between (12) and (13): pi* is a valid distribution, positive where the reference is. *)
  Theorem optimum_is_a_policy r x : policy answers (pi_r r x).
  Proof. now apply pi_r_is_policy. Qed.

  Theorem optimum_is_positive_where_the_reference_is r x y :
    0 < pi_ref x y -> 0 < pi_r r x y.
  Proof. now apply pi_r_positive. Qed.

  (* (13) *)
  Theorem optimum_in_the_denominator r pi x :
    policy answers (pi x) -> within answers (pi x) (pi_ref x) ->
    expectation answers (pi x) (fun y => ln (pi x y / pi_r r x y)) - ln (Z r x) =
    - J r pi x / beta.
  Proof.
    intros P W.
    rewrite (objective_is_distance_to_the_optimum _ _ _ pi_ref_policy beta_positive r pi x P W).
    unfold KL. unfold expectation. field. lra.
  Qed.

  (* (14) *)
  Theorem objective_as_a_divergence r pi x :
    policy answers (pi x) -> within answers (pi x) (pi_ref x) ->
    KL answers (pi x) (pi_r r x) - ln (Z r x) = - J r pi x / beta.
  Proof. intros P W. now apply optimum_in_the_denominator. Qed.

  (* From (12) on the paper has a minimum for the maximum: less of (14) is more of (3). *)
  Theorem maximum_becomes_a_minimum r pi pi' x :
    policy answers (pi x) -> within answers (pi x) (pi_ref x) ->
    policy answers (pi' x) -> within answers (pi' x) (pi_ref x) ->
    (KL answers (pi' x) (pi_r r x) - ln (Z r x) <= KL answers (pi x) (pi_r r x) - ln (Z r x)
     <-> J r pi x <= J r pi' x).
  Proof.
    intros P W P' W'. rewrite !objective_as_a_divergence by assumption.
    unfold Rdiv. split; intro H.
    - apply Rmult_le_reg_r in H; [lra | now apply Rinv_0_lt_compat].
    - apply Rmult_le_compat_r; [left; now apply Rinv_0_lt_compat | lra].
  Qed.

  (* (15): Gibbs' inequality, and where it is an equality. *)
  Theorem divergence_is_least_at_the_optimum r pi x :
    policy answers (pi x) -> within answers (pi x) (pi_ref x) ->
    0 <= KL answers (pi x) (pi_r r x) /\
    (KL answers (pi x) (pi_r r x) = 0 <-> forall y, In y answers -> pi x y = pi_r r x y).
  Proof.
    intros P W. pose proof (optimum_is_a_policy r x) as S.
    pose proof (within_pi_r answers pi_ref beta pi_ref_policy pi r x W) as V.
    split; [now apply gibbs_inequality | now apply gibbs_equality].
  Qed.
End A1.

(* A.2 *)

(* (16) *)
Theorem preference_restated {X Y} (r : X -> Y -> R) x y1 y2 :
  bradley_terry r x y1 y2 = 1 / (1 + exp (r x y2 - r x y1)).
Proof.
  rewrite preference_is_sigma_of_the_gap. unfold sigma. now rewrite Ropp_minus_distr.
Qed.

Section A2.
  Context {X Y : Type}.
  Variables (answers : list Y) (pi_ref : X -> Y -> R) (beta : R).
  Hypothesis pi_ref_policy : forall x, policy answers (pi_ref x).
  Hypothesis beta_positive : 0 < beta.
  Local Notation pi_r := (pi_r answers pi_ref beta).
  Local Notation implicit_reward := (implicit_reward pi_ref beta).

  (* (17), put into (16): beta log Z cancels. *)
  Theorem preference_is_sigma_of_the_implicit_gap r x y1 y2 :
    0 < pi_ref x y1 -> 0 < pi_ref x y2 ->
    bradley_terry r x y1 y2 =
    sigma (implicit_reward (pi_r r) x y1 - implicit_reward (pi_r r) x y2).
  Proof.
    intros P1 P2.
    rewrite (preference_from_the_optimum answers pi_ref beta) by assumption.
    unfold sigma, Section4.implicit_reward. now rewrite Ropp_minus_distr.
  Qed.

  (* (17) read backwards: a policy is optimal for its implicit reward, whatever is added. *)
  Theorem policy_is_optimal_for_its_implicit_reward pi (f : X -> R) x y :
    policy answers (pi x) -> (forall y, In y answers -> 0 < pi_ref x y) ->
    (forall y, In y answers -> 0 < pi x y) -> In y answers ->
    pi_r (fun x y => implicit_reward pi x y + f x) x y = pi x y.
  Proof.
    intros P R Q I. symmetry. revert y I.
    apply (policy_of_a_reward answers pi_ref beta ltac:(lra) pi _ (f x) x); auto.
  Qed.
End A2.

(* A.3 *)

Section Orders.
  Context {Y : Type}.

  (* Every way to take one of the answers away, and every order of the answers. *)
  Fixpoint picks (l : list Y) : list (Y * list Y) :=
    match l with
    | [] => []
    | y :: rest => (y, rest) :: map (fun p => (fst p, y :: snd p)) (picks rest)
    end.

  Fixpoint orders_of (n : nat) (l : list Y) : list (list Y) :=
    match n with
    | O => [[]]
    | S n => flat_map (fun p => map (cons (fst p)) (orders_of n (snd p))) (picks l)
    end.

  Definition orders (l : list Y) : list (list Y) := orders_of (length l) l.

  Lemma picks_permute l y rest : In (y, rest) (picks l) -> Permutation l (y :: rest).
  Proof.
    revert y rest. induction l as [|a l IH]; simpl; intros y rest H; [easy|].
    destruct H as [H|H].
    - injection H as <- <-. reflexivity.
    - apply in_map_iff in H as ([b k] & H & I). injection H as <- <-.
      simpl. rewrite (IH b k I). apply perm_swap.
  Qed.

  Lemma picks_all l y : In y l -> exists rest, In (y, rest) (picks l).
  Proof.
    induction l as [|a l IH]; simpl; intro H; [easy|]. destruct H as [<-|H].
    - exists l. now left.
    - destruct (IH H) as [k K]. exists (a :: k). right. apply in_map_iff.
      now exists (y, k).
  Qed.

  Lemma picks_length l y rest : In (y, rest) (picks l) -> length l = S (length rest).
  Proof. intro H. exact (Permutation_length (picks_permute l y rest H)). Qed.

  Lemma orders_of_permute n l o :
    length l = n -> (In o (orders_of n l) <-> Permutation l o).
  Proof.
    revert l o. induction n as [|n IH]; intros l o L; simpl.
    - destruct l; [|easy]. split; [intros [<-|[]]; constructor|].
      intro H. apply Permutation_nil in H. auto.
    - rewrite in_flat_map. split.
      + intros ([y k] & I & H). apply in_map_iff in H as (o' & <- & H). simpl in *.
        rewrite (picks_permute l y k I). apply perm_skip, IH; [|exact H].
        apply picks_length in I. congruence.
      + intro H. destruct o as [|y o].
        * apply Permutation_sym, Permutation_nil in H. now subst.
        * destruct (picks_all l y) as [k K].
          { apply (Permutation_in y (Permutation_sym H)). now left. }
          exists (y, k). split; [exact K|]. simpl. apply in_map, IH.
          { apply picks_length in K. congruence. }
          apply (Permutation_cons_inv (a := y)).
          now rewrite <- (picks_permute l y k K).
  Qed.

  Lemma sum_permute (l k : list Y) f : Permutation l k -> sum l f = sum k f.
  Proof. induction 1; simpl; lra. Qed.

  Lemma sum_of_picks l (f : Y -> R) : sum (picks l) (fun p => f (fst p)) = sum l f.
  Proof.
    induction l as [|a l IH]; simpl; [reflexivity|]. f_equal. rewrite <- IH.
    generalize (picks l) as k. induction k as [|b k IHk]; simpl; [reflexivity|].
    now rewrite IHk.
  Qed.
End Orders.

Lemma sum_map {A B} (h : A -> B) l f : sum (map h l) f = sum l (fun a => f (h a)).
Proof. induction l as [|a l IH]; simpl; [|rewrite IH]; reflexivity. Qed.

Lemma sum_flat_map {A B} (h : A -> list B) l f :
  sum (flat_map h l) f = sum l (fun a => sum (h a) f).
Proof. induction l as [|a l IH]; simpl; [|rewrite sum_app, IH]; reflexivity. Qed.

Lemma sum_of_exponentials {X Y} (r : X -> Y -> R) x y l :
  0 < sum (y :: l) (fun y => exp (r x y)).
Proof.
  apply (sum_positive _ _ y); [intros; left; apply exp_pos | now left | apply exp_pos].
Qed.

Lemma plackett_luce_positive {X Y} (r : X -> Y -> R) x order : 0 < plackett_luce r x order.
Proof.
  induction order as [|y order IH]; [simpl; lra|]. cbn [plackett_luce].
  apply Rmult_lt_0_compat; [|exact IH].
  apply Rdiv_lt_0_compat; [apply exp_pos | apply sum_of_exponentials].
Qed.

(* (18): `orders` lists the orders of the answers, and nothing else ... *)
Theorem orders_are_the_permutations {Y} (l o : list Y) :
  In o (orders l) <-> Permutation l o.
Proof. now apply orders_of_permute. Qed.

(* ... and their probabilities add up to one. *)
Theorem plackett_luce_is_a_distribution {X Y} (r : X -> Y -> R) x l :
  policy (orders l) (plackett_luce r x).
Proof.
  split; [intros; left; apply plackett_luce_positive|].
  unfold orders. remember (length l) as n eqn:L. symmetry in L. revert l L.
  induction n as [|n IH]; intros l L; [simpl; ring|]. cbn [orders_of].
  rewrite sum_flat_map.
  rewrite (sum_ext _ _ (fun p => exp (r x (fst p)) * / sum l (fun y => exp (r x y)))).
  - rewrite (sum_of_picks l (fun y => exp (r x y) * / sum l (fun y => exp (r x y)))).
    rewrite sum_constant_factor. apply Rinv_r, Rgt_not_eq.
    destruct l; [easy | apply sum_of_exponentials].
  - intros [y k] I. rewrite sum_map. cbn [fst snd].
    assert (K : length k = n) by (apply picks_length in I; congruence).
    rewrite (sum_ext _ _ (fun o => exp (r x y) * / sum l (fun y => exp (r x y)) *
      plackett_luce r x o)).
    + rewrite sum_scal, (IH k K). ring.
    + intros o H. apply (orders_of_permute n k o K) in H. cbn [plackett_luce].
      rewrite (sum_permute l (y :: o)); [reflexivity|].
      rewrite (picks_permute l y k I). now apply perm_skip.
Qed.

(* (18): for two answers it is (1). *)
Theorem plackett_luce_of_two_is_bradley_terry {X Y} (r : X -> Y -> R) x y1 y2 :
  plackett_luce r x [y1; y2] = bradley_terry r x y1 y2.
Proof.
  unfold bradley_terry. simpl. rewrite !Rplus_0_r.
  pose proof (exp_pos (r x y1)). pose proof (exp_pos (r x y2)). field. lra.
Qed.

(* A ranking of the data, as `comparison` is a pair of it. *)
Record ranking (X Y : Type) : Type :=
  Ranking { share : R; about : X; order : list Y }.
Arguments Ranking {X Y}.
Arguments share {X Y}.
Arguments about {X Y}.
Arguments order {X Y}.

Definition as_ranking {X Y} (c : comparison X Y) : ranking X Y :=
  Ranking (weight c) (prompt c) [chosen c; rejected c].

(* (20) *)
Definition L_ranking {X Y} (pi_ref : X -> Y -> R) beta (D : list (ranking X Y)) pi : R :=
  - sum D (fun c =>
      share c * ln (plackett_luce (implicit_reward pi_ref beta pi) (about c) (order c))).

Section A3.
  Context {X Y : Type}.
  Variables (answers : list Y) (pi_ref : X -> Y -> R) (beta : R).
  Hypothesis pi_ref_policy : forall x, policy answers (pi_ref x).
  Hypothesis beta_positive : 0 < beta.
  Local Notation pi_r := (pi_r answers pi_ref beta).
  Local Notation implicit_reward := (implicit_reward pi_ref beta).
  Local Notation L_ranking := (L_ranking pi_ref beta).
  Local Notation positive := (@positive X Y answers).

  (* (19): Z leaves every factor. *)
  Theorem ranking_from_the_optimum r x order :
    positive pi_ref -> incl order answers ->
    plackett_luce r x order = plackett_luce (implicit_reward (pi_r r)) x order.
  Proof.
    intros P I. apply (lemma_1 answers); [|exact I].
    exists (fun x => beta * ln (Z answers pi_ref beta r x)). intros x' y K.
    rewrite (reward_from_its_policy answers pi_ref beta pi_ref_policy beta_positive r x' y
      (P x' y K)) at 1.
    unfold Section4.implicit_reward. ring.
  Qed.

  (* (20): for rankings of two it is (7). *)
  Theorem ranking_loss_of_two_is_the_dpo_loss D pi :
    L_ranking (map as_ranking D) pi = L_DPO pi_ref beta D pi.
  Proof.
    unfold AppendixA.L_ranking, L_DPO. rewrite sum_map. f_equal. apply sum_ext.
    intros c _. simpl share. simpl about. simpl order. do 2 f_equal.
    now rewrite plackett_luce_of_two_is_bradley_terry, preference_is_sigma_of_the_gap.
  Qed.

  (* (20): where the orders come from (18) at r, no policy has a smaller loss than (4). *)
  Theorem ranking_loss_is_least_at_the_optimum r x pi :
    positive pi_ref ->
    let D := map (fun o => Ranking (plackett_luce r x o) x o) (orders answers) in
    L_ranking D (pi_r r) <= L_ranking D pi.
  Proof.
    intros P D. unfold AppendixA.L_ranking, D. rewrite !sum_map. simpl.
    rewrite (sum_ext (orders answers)
      (fun o => plackett_luce r x o * ln (plackett_luce (implicit_reward (pi_r r)) x o))
      (fun o => plackett_luce r x o * ln (plackett_luce r x o))).
    - assert (W : within (orders answers) (plackett_luce r x)
                    (plackett_luce (implicit_reward pi) x))
        by (intros o _ E; pose proof (plackett_luce_positive (implicit_reward pi) x o); lra).
      pose proof (gibbs_inequality _ _ _ (plackett_luce_is_a_distribution r x answers)
        (plackett_luce_is_a_distribution (implicit_reward pi) x answers) W) as G.
      unfold KL in G.
      rewrite (sum_ext _ _ (fun o => plackett_luce r x o * ln (plackett_luce r x o) -
        plackett_luce r x o * ln (plackett_luce (implicit_reward pi) x o))) in G.
      + rewrite sum_minus in G. lra.
      + intros o _. rewrite ln_div by apply plackett_luce_positive. ring.
    - intros o I. do 2 f_equal. symmetry. apply ranking_from_the_optimum; [exact P|].
      apply orders_are_the_permutations in I. intros y K.
      exact (Permutation_in y (Permutation_sym I) K).
  Qed.
End A3.

(* A.4 *)

(* (21): the two properties of sigma that A.4 names. *)
Theorem sigma_derivative z : derivable_pt_lim sigma z (sigma z * (1 - sigma z)).
Proof.
  apply (derivable_pt_lim_ext (fun z => exp (ln (sigma z)))).
  - intro s. apply exp_ln, sigma_positive.
  - apply (derivative_value _ _ (exp (ln (sigma z)) * sigma (- z))).
    + rewrite exp_ln, sigma_opp by apply sigma_positive. reflexivity.
    + apply (derivable_pt_lim_comp (fun z => ln (sigma z)) exp);
        [apply log_sigma_derivative | apply derivable_pt_lim_exp].
Qed.

Theorem sigma_of_the_opposite z : sigma (- z) = 1 - sigma z.
Proof. apply sigma_opp. Qed.

(* (21) as it is printed, chosen and rejected swapped. *)
Definition L_printed {X Y} (pi_ref : X -> Y -> R) beta (D : list (comparison X Y)) pi : R :=
  - sum D (fun c => weight c * ln (sigma (
      beta * ln (pi (prompt c) (rejected c) / pi_ref (prompt c) (rejected c)) -
      beta * ln (pi (prompt c) (chosen c) / pi_ref (prompt c) (chosen c))))).

Lemma log_sigma_of_the_opposite z : ln (sigma (- z)) = ln (sigma z) - z.
Proof.
  unfold sigma. rewrite Ropp_involutive. pose proof (exp_pos z). pose proof (exp_pos (- z)).
  rewrite !ln_div by lra.
  replace (1 + exp z) with (exp z * (1 + exp (- z)))
    by (rewrite exp_Ropp; field; lra).
  rewrite ln_mult, ln_exp by lra. ring.
Qed.

(* It exceeds (7) by the margin. *)
Theorem printed_loss_exceeds_the_loss_by_the_margin {X Y} (pi_ref : X -> Y -> R) beta D pi :
  L_printed pi_ref beta D pi =
  L_DPO pi_ref beta D pi + sum D (fun c => weight c *
    (implicit_reward pi_ref beta pi (prompt c) (chosen c)
     - implicit_reward pi_ref beta pi (prompt c) (rejected c))).
Proof.
  unfold L_printed, L_DPO, implicit_reward.
  induction D as [|c D IH]; simpl; [ring|].
  rewrite <- (Ropp_minus_distr (beta * ln (_ (chosen c) / _))), log_sigma_of_the_opposite.
  lra.
Qed.

(* (22): the chain rule, with sigma' = sigma (1 - sigma) in it. *)
Theorem loss_gradient_by_the_chain_rule u u' theta :
  derivable_pt_lim u theta u' ->
  derivable_pt_lim (fun t => - ln (sigma (u t))) theta
    (- (sigma (u theta) * (1 - sigma (u theta)) / sigma (u theta)) * u').
Proof.
  intro H. pose proof (sigma_positive (u theta)).
  apply (derivative_value _ _ (- (sigma (- u theta) * u'))).
  - rewrite sigma_opp. field. lra.
  - apply (derivable_pt_lim_opp (fun t => ln (sigma (u t)))).
    apply (derivable_pt_lim_comp u (fun z => ln (sigma z)));
      [exact H | apply log_sigma_derivative].
Qed.

(* (22): the gradient of the printed loss is minus the last line of A.4. *)
Theorem gradient_of_the_printed_loss {X Y} (pi_ref : X -> Y -> R) beta D
    (pi : R -> X -> Y -> R) (grad_log_pi : X -> Y -> R) theta :
  comparable pi_ref D -> (forall t x y, 0 < pi t x y) ->
  (forall x y, derivable_pt_lim (fun t => ln (pi t x y)) theta (grad_log_pi x y)) ->
  derivable_pt_lim (fun t => L_printed pi_ref beta D (pi t)) theta
    (- (- beta * sum D (fun c =>
       weight c *
       (sigma (implicit_reward pi_ref beta (pi theta) (prompt c) (chosen c)
               - implicit_reward pi_ref beta (pi theta) (prompt c) (rejected c)) *
        (grad_log_pi (prompt c) (chosen c) - grad_log_pi (prompt c) (rejected c)))))).
Proof.
  intros C P G.
  set (swap := fun c : comparison X Y =>
    Comparison (weight c) (prompt c) (rejected c) (chosen c)).
  assert (C' : comparable pi_ref (map swap D)).
  { intros c I. apply in_map_iff in I as (b & <- & I). apply C in I. simpl. tauto. }
  apply (derivable_pt_lim_ext (fun t => L_DPO pi_ref beta (map swap D) (pi t))).
  - intro t. unfold L_DPO. now rewrite sum_map.
  - eapply derivative_value; [|exact (dpo_gradient pi_ref beta (map swap D) pi grad_log_pi
      theta C' P G)].
    rewrite sum_map. simpl. rewrite <- !sum_scal.
    match goal with |- _ = - ?s => replace (- s) with (-1 * s) by ring end.
    rewrite <- sum_scal. apply sum_ext. intros. ring.
Qed.

(* A.6 *)

Section A6.
  Context {X Y : Type}.
  Variables (answers : list Y) (pi_ref : X -> Y -> R) (beta : R).
  Hypothesis pi_ref_policy : forall x, policy answers (pi_ref x).
  Hypothesis beta_positive : 0 < beta.
  Local Notation Z := (Z answers pi_ref beta).
  Local Notation pi_r := (pi_r answers pi_ref beta).
  Local Notation implicit_reward := (implicit_reward pi_ref beta).
  Local Notation equivalent := (@equivalent X Y answers).
  Local Notation projection := (projection answers pi_ref beta).
  Local Notation positive := (@positive X Y answers).

  (* (23) *)
  Theorem theorem_line_1 r x y :
    positive pi_ref -> In y answers ->
    r x y = implicit_reward (pi_r r) x y + beta * ln (Z r x).
  Proof. intros P I. apply reward_from_its_policy; auto. Qed.

  (* (24) *)
  Theorem theorem_line_2 r x y :
    positive pi_ref -> In y answers -> projection r x y = implicit_reward (pi_r r) x y.
  Proof.
    intros P I. pose proof (theorem_line_1 r x y P I) as E.
    rewrite projection_is_a_shift. lra.
  Qed.

  (* (25) *)
  Theorem theorem_line_3 r r' x y :
    positive pi_ref -> equivalent r r' -> In y answers ->
    projection r x y = implicit_reward (pi_r r) x y /\
    implicit_reward (pi_r r) x y = implicit_reward (pi_r r') x y /\
    implicit_reward (pi_r r') x y = projection r' x y.
  Proof.
    intros P E I. rewrite !theorem_line_2 by assumption. repeat split.
    unfold Section4.implicit_reward.
    now rewrite (lemma_2 _ _ _ pi_ref_policy beta_positive r r').
  Qed.

  (* "Can be reparameterised as": an implicit reward of a policy without zeros. *)
  Definition reparameterised (r : X -> Y -> R) : Prop :=
    exists pi, (forall x, policy answers (pi x)) /\ positive pi /\
      forall x y, In y answers -> r x y = implicit_reward pi x y.

  Lemma one_reparameterisation r r' :
    positive pi_ref -> reparameterised r -> reparameterised r' -> equivalent r r' ->
    forall x y, In y answers -> r x y = r' x y.
  Proof.
    intros R (pi & P & Q & H) (pi' & P' & Q' & H') [f E] x y I.
    assert (B : beta <> 0) by lra.
    assert (F : forall z, In z answers -> pi x z = pi_r r x z).
    { apply (policy_of_a_reward answers pi_ref beta B pi r 0 x); auto.
      intros z K. rewrite (H x z K). ring. }
    assert (F' : forall z, In z answers -> pi' x z = pi_r r x z).
    { apply (policy_of_a_reward answers pi_ref beta B pi' r (f x) x); auto.
      intros z K. rewrite <- (H' x z K), <- (E x z K). ring. }
    rewrite (H x y I), (H' x y I). unfold Section4.implicit_reward.
    now rewrite (F y I), (F' y I).
  Qed.

  (* Proposition 1: every class has one reward that can be reparameterised, and only one. *)
  Theorem proposition_1 r :
    positive pi_ref ->
    exists r', (equivalent r r' /\ reparameterised r') /\
      forall r'', equivalent r r'' /\ reparameterised r'' ->
        forall x y, In y answers -> r'' x y = r' x y.
  Proof.
    intro P. assert (Q : reparameterised (projection r)).
    { exists (pi_r r). split; [|split].
      - intro x. now apply pi_r_is_policy.
      - intros x y I. apply pi_r_positive; auto.
      - intros x y I. now apply theorem_line_2. }
    exists (projection r). split; [split; [apply projection_is_equivalent | exact Q]|].
    intros r'' [E Q'']. apply one_reparameterisation; auto.
    apply (equivalence_is_transitive answers r'' r);
      [now apply equivalence_is_symmetric | apply projection_is_equivalent].
  Qed.
End A6.

(* The slips of the paper. *)

(* A.4: its weight and that of section 4 agree at margin zero, and nowhere else. *)
Theorem slip_of_a4_agrees_at_margin_zero_only beta z :
  beta <> 0 -> (- beta * sigma z = - beta * sigma (- z) <-> z = 0).
Proof.
  intro B. split; [|intros ->; now rewrite Ropp_0]. intro E.
  apply Rmult_eq_reg_l in E; [|lra]. apply sigma_injective in E. lra.
Qed.

Theorem slip_of_a4_is_a_hyperbolic_tangent beta z :
  - beta * sigma z - - beta * sigma (- z) = - beta * tanh (z / 2).
Proof.
  unfold tanh, sinh, cosh, sigma. rewrite Ropp_involutive. pose proof (exp_pos (z / 2)).
  replace (exp z) with (exp (z / 2) * exp (z / 2))
    by (rewrite <- exp_plus; f_equal; field).
  replace (exp (- z)) with (/ (exp (z / 2) * exp (z / 2)))
    by (rewrite <- exp_plus, <- exp_Ropp; f_equal; field).
  rewrite exp_Ropp. field. pose proof (Rmult_lt_0_compat _ _ H H). repeat split; lra.
Qed.

(* 5.2 takes pi* "from Eq. 7". At pi* the loss (7) of one pair is minus the logarithm of a
   preference, one number for two answers, and no policy. *)
Theorem dpo_loss_of_a_pair_is_a_preference {X Y} (answers : list Y) (pi_ref : X -> Y -> R)
    beta r x y1 y2 :
  (forall x, policy answers (pi_ref x)) -> 0 < beta -> 0 < pi_ref x y1 -> 0 < pi_ref x y2 ->
  exp (- L_DPO pi_ref beta [Comparison 1 x y1 y2] (pi_r answers pi_ref beta r)) =
  bradley_terry r x y1 y2.
Proof.
  intros P B P1 P2.
  rewrite dpo_loss_at_the_optimum; [|exact P | exact B | intros c [<-|[]]; simpl; auto].
  unfold L_R. simpl. rewrite Ropp_involutive, Rplus_0_r, Rmult_1_l.
  rewrite exp_ln by apply sigma_positive. now rewrite preference_is_sigma_of_the_gap.
Qed.

(* Table 3 shows Unlikelihood, log pi(y_w) - alpha log pi(y_l). Its gradient times beta is that
   of (7) without the weight for alpha = 1 only. *)
Theorem unlikelihood_gradient_is_unweighted_for_alpha_one (f_w f_l : R -> R) d_w d_l
    beta alpha theta g_u g_m :
  0 < beta -> d_l <> 0 ->
  derivable_pt_lim f_w theta d_w -> derivable_pt_lim f_l theta d_l ->
  derivable_pt_lim (fun t => - (f_w t - alpha * f_l t)) theta g_u ->
  derivable_pt_lim (fun t => - (beta * f_w t - beta * f_l t)) theta g_m ->
  (beta * g_u = g_m <-> alpha = 1).
Proof.
  intros B N W L U M.
  assert (U' : derivable_pt_lim (fun t => - (f_w t - alpha * f_l t)) theta
                 (- (d_w - alpha * d_l))).
  { apply (derivable_pt_lim_opp (fun t => f_w t - alpha * f_l t)).
    apply (derivable_pt_lim_minus f_w (fun t => alpha * f_l t)); [exact W|].
    now apply (derivable_pt_lim_scal f_l). }
  assert (M' : derivable_pt_lim (fun t => - (beta * f_w t - beta * f_l t)) theta
                 (- (beta * d_w - beta * d_l))).
  { apply (derivable_pt_lim_opp (fun t => beta * f_w t - beta * f_l t)).
    apply (derivable_pt_lim_minus (fun t => beta * f_w t) (fun t => beta * f_l t));
      now apply (derivable_pt_lim_scal _). }
  rewrite (uniqueness_limite _ _ _ _ U U'), (uniqueness_limite _ _ _ _ M M'). split.
  - intro E. apply (Rmult_eq_reg_r d_l); [|exact N]. apply (Rmult_eq_reg_l beta); lra.
  - intros ->. ring.
Qed.

(* What is refuted. A prompt with one answer and reward 1 settles most of it. *)

Definition one (_ _ : unit) : R := 1.

Lemma one_policy x : policy [tt] (one x).
Proof. unfold one. split; [intros; lra | simpl; lra]. Qed.

Lemma one_within p x : within [tt] p (one x).
Proof. unfold one. intros ? _ ?. lra. Qed.

Lemma one_positive : positive [tt] one.
Proof. intros x y _. unfold one. lra. Qed.

Lemma partition_of_one : Z [tt] one 1 one tt = exp 1.
Proof.
  unfold Z, one. simpl. replace (1 / 1) with 1 by field. ring.
Qed.

Lemma exp_1_above_one : 1 < exp 1.
Proof. pose proof (exp_ineq1 1 ltac:(lra)). lra. Qed.

Lemma partition_of_no_reward {X Y} (answers : list Y) (pi_ref : X -> Y -> R) beta x :
  policy answers (pi_ref x) -> Z answers pi_ref beta (fun _ _ => 0) x = 1.
Proof.
  intros [_ S]. unfold Z. rewrite <- S. apply sum_ext. intros y _.
  unfold Rdiv. rewrite Rmult_0_l, exp_0. ring.
Qed.

Lemma optimum_of_no_reward x y : pi_r coin unfair 1 (fun _ _ => 0) x y = unfair x y.
Proof.
  destruct x. rewrite pi_r_factors, partition_of_no_reward by apply unfair_policy.
  unfold Rdiv. rewrite Rmult_0_l, exp_0. field.
Qed.

(* The slip in (11): the reference takes the mean of the log-ratio. *)
Theorem one_expectation_false_with_the_reference_in_it :
  ~ (forall (X Y : Type) (answers : list Y) (pi_ref : X -> Y -> R) beta r pi x,
       (forall x, policy answers (pi_ref x)) -> 0 < beta ->
       policy answers (pi x) -> within answers (pi x) (pi_ref x) ->
       J answers pi_ref beta r pi x =
       expectation answers (pi x) (r x)
       - beta * expectation answers (pi_ref x) (fun y => ln (pi x y / pi_ref x y))).
Proof.
  intro H.
  specialize (H unit bool coin fair 1 heads unfair tt fair_policies ltac:(lra)
    unfair_policy (fair_everywhere _)).
  assert (E : expectation coin (fair tt) (fun y => ln (unfair tt y / fair tt y)) =
              - KL coin (fair tt) (unfair tt)).
  { unfold expectation, KL, fair, unfair. simpl. rewrite !ln_div by lra. ring. }
  unfold J in H. rewrite E in H.
  pose proof (gibbs_inequality _ _ _ fair_policy unfair_policy (unfair_everywhere _)).
  pose proof (gibbs_inequality _ _ _ unfair_policy fair_policy (fair_everywhere _)).
  apply coins_differ. unfold coin in *. lra.
Qed.

(* The slip in (12): the denominator is a distribution for any constant. *)
Theorem denominator_false_as_a_distribution_for_any_constant :
  ~ (forall (X Y : Type) (answers : list Y) (pi_ref : X -> Y -> R) beta r c x,
       (forall x, policy answers (pi_ref x)) -> 0 < beta -> 0 < c ->
       policy answers (fun y => 1 / c * pi_ref x y * exp (r x y / beta))).
Proof.
  intro H.
  specialize (H unit unit [tt] one 1 one 1 tt one_policy ltac:(lra) ltac:(lra)).
  apply (proj1 (only_the_partition_makes_a_distribution [tt] one 1 one_policy 1 one tt
    ltac:(lra))) in H.
  rewrite partition_of_one in H. pose proof exp_1_above_one. lra.
Qed.

(* The slip: pi_ref exp(r / beta) is a distribution as it stands. *)
Theorem optimum_false_as_a_policy_without_the_partition :
  ~ (forall (X Y : Type) (answers : list Y) (pi_ref : X -> Y -> R) beta r x,
       (forall x, policy answers (pi_ref x)) -> 0 < beta ->
       policy answers (fun y => pi_ref x y * exp (r x y / beta))).
Proof.
  intro H. destruct (H unit unit [tt] one 1 one tt one_policy ltac:(lra)) as [_ S].
  change (Z [tt] one 1 one tt = 1) in S.
  rewrite partition_of_one in S. pose proof exp_1_above_one. lra.
Qed.

(* The slip in (13): log Z with a plus sign. *)
Theorem denominator_false_with_a_plus_sign :
  ~ (forall (X Y : Type) (answers : list Y) (pi_ref : X -> Y -> R) beta r pi x,
       (forall x, policy answers (pi_ref x)) -> 0 < beta ->
       policy answers (pi x) -> within answers (pi x) (pi_ref x) ->
       expectation answers (pi x) (fun y => ln (pi x y / pi_r answers pi_ref beta r x y))
       + ln (Z answers pi_ref beta r x) = - J answers pi_ref beta r pi x / beta).
Proof.
  intro H.
  specialize (H unit unit [tt] one 1 one one tt one_policy ltac:(lra) (one_policy tt)
    (one_within _ tt)).
  rewrite <- optimum_in_the_denominator in H; auto using one_policy, one_within; [|lra].
  rewrite partition_of_one, ln_exp in H. lra.
Qed.

(* The slip in (14): the divergence of the optimum from the policy. *)
Theorem divergence_false_the_other_way_round :
  ~ (forall (X Y : Type) (answers : list Y) (pi_ref : X -> Y -> R) beta r pi x,
       (forall x, policy answers (pi_ref x)) -> 0 < beta ->
       policy answers (pi x) -> positive answers pi_ref -> positive answers pi ->
       KL answers (pi_r answers pi_ref beta r x) (pi x) - ln (Z answers pi_ref beta r x) =
       - J answers pi_ref beta r pi x / beta).
Proof.
  intro H.
  assert (U : forall x, policy coin (unfair x)) by (intros []; apply unfair_policy).
  specialize (H unit bool coin unfair 1 (fun _ _ => 0) fair tt U ltac:(lra) fair_policy
    ltac:(intros ? [] _; simpl; lra) ltac:(intros ? [] _; simpl; lra)).
  rewrite <- objective_as_a_divergence in H;
    auto using fair_policy, unfair_everywhere; [|lra].
  assert (E : forall p, KL coin p (pi_r coin unfair 1 (fun _ _ => 0) tt) =
                        KL coin p (unfair tt))
    by (intro p; apply sum_ext; intros; now rewrite optimum_of_no_reward).
  assert (F : KL coin (pi_r coin unfair 1 (fun _ _ => 0) tt) (fair tt) =
              KL coin (unfair tt) (fair tt))
    by (apply sum_ext; intros; now rewrite optimum_of_no_reward).
  rewrite E, F in H. apply coins_diverge_differently. unfold coin in H. lra.
Qed.

(* The slip in (15): the divergence is zero at the reference. *)
Theorem divergence_false_as_zero_at_the_reference :
  ~ (forall (X Y : Type) (answers : list Y) (pi_ref : X -> Y -> R) beta r x,
       (forall x, policy answers (pi_ref x)) -> 0 < beta ->
       KL answers (pi_ref x) (pi_r answers pi_ref beta r x) = 0).
Proof.
  intro H. specialize (H unit bool coin fair 1 heads tt fair_policies ltac:(lra)).
  pose proof (proj1 (proj2 (divergence_is_least_at_the_optimum coin fair 1 fair_policies heads
    fair tt fair_policy (fair_everywhere _))) H) as K.
  pose proof (odds_of_heads 1 ltac:(lra)) as O. unfold implicit_reward in O.
  change [true; false] with coin in O.
  rewrite <- (K true), <- (K false) in O by (simpl; auto).
  unfold fair in O. lra.
Qed.

(* The slip in (16): the difference the wrong way round. *)
Theorem preference_restated_false_with_the_gap_turned :
  ~ (forall (X Y : Type) (r : X -> Y -> R) x y1 y2,
       bradley_terry r x y1 y2 = 1 / (1 + exp (r x y1 - r x y2))).
Proof.
  intro H. specialize (H unit bool heads tt true false).
  rewrite preference_is_sigma_of_the_gap, <- (Ropp_minus_distr (heads tt false)) in H.
  rewrite Ropp_minus_distr in H at 1. rewrite <- (Ropp_minus_distr (heads tt true)) in H.
  apply sigma_injective in H. simpl in H. lra.
Qed.

(* The slip in (17): the way back from the policy without beta. *)
Theorem way_back_false_without_beta :
  ~ (forall (X Y : Type) (answers : list Y) (pi_ref : X -> Y -> R) beta pi x y,
       (forall x, policy answers (pi_ref x)) -> 0 < beta -> policy answers (pi x) ->
       (forall y, In y answers -> 0 < pi_ref x y) -> (forall y, In y answers -> 0 < pi x y) ->
       In y answers ->
       pi_r answers pi_ref beta (fun x y => ln (pi x y / pi_ref x y)) x y = pi x y).
Proof.
  intro H. set (pi := pi_r coin fair 2 heads).
  assert (E : forall y, In y coin ->
    pi_r coin fair 2 (fun x y => ln (pi x y / fair x y)) tt y = pi tt y).
  { intros y I. apply H; auto using fair_policies; try lra.
    - apply pi_r_is_policy, fair_policies.
    - intros [] _; simpl; lra.
    - intros b _. apply pi_r_positive; [apply fair_policies | destruct b; simpl; lra]. }
  pose proof (reward_from_its_policy coin fair 2 fair_policies ltac:(lra)
    (fun x y => ln (pi x y / fair x y)) tt) as R.
  pose proof (R true ltac:(simpl; lra)) as T. pose proof (R false ltac:(simpl; lra)) as F.
  rewrite E in T, F by (simpl; auto).
  pose proof (odds_of_heads 2 ltac:(lra)) as O. unfold implicit_reward in O.
  fold coin pi in O. lra.
Qed.

(* The product of (1) over all pairs of an order. *)
Fixpoint product_over_pairs {X Y} (r : X -> Y -> R) (x : X) (order : list Y) : R :=
  match order with
  | [] => 1
  | y :: rest =>
      fold_right (fun z p => bradley_terry r x y z * p) 1 rest * product_over_pairs r x rest
  end.

Lemma even_preference {X Y} (r : X -> Y -> R) x y : bradley_terry r x y y = 1 / 2.
Proof. rewrite preference_is_sigma_of_the_gap, Rminus_eq_0. apply sigma_0. Qed.

(* The slip in (18): a ranking is its pairs. *)
Theorem plackett_luce_false_as_a_product_over_pairs :
  ~ (forall (X Y : Type) (r : X -> Y -> R) x l,
       policy (orders l) (product_over_pairs r x)).
Proof.
  intro H. destruct (H unit unit one tt [tt; tt; tt]) as [_ S]. simpl in S.
  rewrite even_preference in S. lra.
Qed.

(* The slip in (19): beta is left out. *)
Theorem ranking_false_without_beta :
  ~ (forall (X Y : Type) (answers : list Y) (pi_ref : X -> Y -> R) beta r x order,
       (forall x, policy answers (pi_ref x)) -> 0 < beta -> positive answers pi_ref ->
       incl order answers ->
       plackett_luce r x order =
       plackett_luce (fun x y => ln (pi_r answers pi_ref beta r x y / pi_ref x y)) x order).
Proof.
  intro H.
  specialize (H unit bool coin fair 2 heads tt coin fair_policies ltac:(lra)
    ltac:(intros ? [] _; simpl; lra) (incl_refl _)).
  unfold coin in H. rewrite !plackett_luce_of_two_is_bradley_terry in H.
  apply preference_depends_on_the_gap_only in H.
  pose proof (odds_of_heads 2 ltac:(lra)) as O. unfold implicit_reward in O.
  unfold heads at 1 2 in H. lra.
Qed.

(* The slip in (20): for three answers it is (7) added over the pairs. *)
Theorem ranking_loss_false_as_a_sum_over_pairs :
  ~ (forall (X Y : Type) (pi_ref : X -> Y -> R) beta pi x y1 y2 y3,
       L_ranking pi_ref beta [Ranking 1 x [y1; y2; y3]] pi =
       L_DPO pi_ref beta
         [Comparison 1 x y1 y2; Comparison 1 x y1 y3; Comparison 1 x y2 y3] pi).
Proof.
  intro H. specialize (H unit unit one 1 one tt tt tt tt).
  unfold L_ranking, L_DPO, implicit_reward, one in H. simpl in H.
  rewrite Rminus_eq_0, sigma_0 in H.
  replace (1 / 1) with 1 in H by field. rewrite ln_1, Rmult_0_r, exp_0 in H.
  replace (1 / (1 + (1 + (1 + 0))) * (1 / (1 + (1 + 0)) * (1 / (1 + 0) * 1))) with (/ 6) in H
    by field.
  assert (E : ln (1 / 2 * (1 / 2 * (1 / 2))) = ln (/ 6)) by (rewrite !ln_mult by lra; lra).
  apply ln_inv in E; lra.
Qed.

(* The slip in (21), as A.4 prints it. *)
Theorem printed_loss_false_as_the_loss :
  ~ (forall (X Y : Type) (pi_ref : X -> Y -> R) beta D pi,
       0 < beta -> comparable pi_ref D ->
       L_printed pi_ref beta D pi = L_DPO pi_ref beta D pi).
Proof.
  intro H. specialize (H unit bool ones 1 one_pair leaning ltac:(lra) one_pair_comparable).
  rewrite printed_loss_exceeds_the_loss_by_the_margin in H.
  unfold one_pair, implicit_reward, ones, leaning in H. simpl in H.
  rewrite !ln_div, ln_exp, ln_1 in H by (try apply exp_pos; lra). lra.
Qed.

(* The slip in (22): the last line of A.4 is not even the gradient of what A.4 prints. *)
Theorem last_line_of_a4_false_for_the_printed_loss :
  ~ (forall (X Y : Type) (pi_ref : X -> Y -> R) beta D (pi : R -> X -> Y -> R)
         (grad_log_pi : X -> Y -> R) theta,
       comparable pi_ref D -> (forall t x y, 0 < pi t x y) ->
       (forall x y, derivable_pt_lim (fun t => ln (pi t x y)) theta (grad_log_pi x y)) ->
       derivable_pt_lim (fun t => L_printed pi_ref beta D (pi t)) theta
         (- beta * sum D (fun c =>
            weight c *
            (sigma (implicit_reward pi_ref beta (pi theta) (prompt c) (chosen c)
                    - implicit_reward pi_ref beta (pi theta) (prompt c) (rejected c)) *
             (grad_log_pi (prompt c) (chosen c) - grad_log_pi (prompt c) (rejected c)))))).
Proof.
  intro H. specialize (H unit bool ones 1 one_pair moving slope 0 one_pair_comparable
    moving_positive (fun x y => moving_slope x y 0)).
  pose proof (gradient_of_the_printed_loss ones 1 one_pair moving slope 0 one_pair_comparable
    moving_positive (fun x y => moving_slope x y 0)) as G.
  pose proof (uniqueness_limite _ _ _ _ H G) as E. unfold one_pair in E. simpl in E.
  match type of E with context [sigma ?z] => pose proof (sigma_positive z) end. lra.
Qed.

(* The slip in (23): a minus sign. *)
Theorem theorem_line_1_false_with_a_minus_sign :
  ~ (forall (X Y : Type) (answers : list Y) (pi_ref : X -> Y -> R) beta r x y,
       (forall x, policy answers (pi_ref x)) -> 0 < beta -> positive answers pi_ref ->
       In y answers ->
       r x y = implicit_reward pi_ref beta (pi_r answers pi_ref beta r) x y
               - beta * ln (Z answers pi_ref beta r x)).
Proof.
  intro H.
  specialize (H unit unit [tt] one 1 one tt tt one_policy ltac:(lra) one_positive
    ltac:(simpl; auto)).
  pose proof (theorem_line_1 [tt] one 1 one_policy ltac:(lra) one tt tt one_positive
    ltac:(simpl; auto)) as E.
  rewrite partition_of_one, ln_exp in *. lra.
Qed.

(* The slip in (24): the reward with mean zero is the implicit reward. *)
Theorem theorem_line_2_false_for_the_normalised_reward :
  ~ (forall (X Y : Type) (answers : list Y) (pi_ref : X -> Y -> R) beta r x y,
       (forall x, policy answers (pi_ref x)) -> 0 < beta -> positive answers pi_ref ->
       In y answers -> expectation answers (pi_ref x) (r x) = 0 ->
       r x y = implicit_reward pi_ref beta (pi_r answers pi_ref beta r) x y).
Proof.
  intro H. set (r := fun (_ : unit) (y : bool) => if y then 1 else - (1)).
  assert (Q : positive coin fair) by (intros ? [] _; simpl; lra).
  specialize (H unit bool coin fair 1 r tt true fair_policies ltac:(lra) Q
    ltac:(simpl; auto) ltac:(unfold expectation; simpl; lra)).
  rewrite <- (theorem_line_2 coin fair 1 fair_policies ltac:(lra) r tt true Q) in H
    by (simpl; auto).
  rewrite projection_is_a_shift in H.
  assert (E : Z coin fair 1 r tt = 1).
  { apply ln_inv; [apply Z_positive, fair_policies | lra | rewrite ln_1; lra]. }
  unfold Z in E. simpl in E. replace (1 / 1) with 1 in E by field.
  pose proof (exp_ineq1 1 ltac:(lra)). pose proof (exp_pos (- (1) / 1)). lra.
Qed.

(* The slip in (25): a scaled reward has the projection of the reward. *)
Theorem theorem_line_3_false_for_a_scale :
  ~ (forall (X Y : Type) (answers : list Y) (pi_ref : X -> Y -> R) beta r a x y,
       (forall x, policy answers (pi_ref x)) -> 0 < beta -> 0 < a -> In y answers ->
       projection answers pi_ref beta (fun x y => a * r x y) x y =
       projection answers pi_ref beta r x y).
Proof.
  intro H.
  pose proof (H unit bool coin fair 1 heads 2 tt) as K.
  pose proof (K true fair_policies ltac:(lra) ltac:(lra) ltac:(simpl; auto)) as T.
  pose proof (K false fair_policies ltac:(lra) ltac:(lra) ltac:(simpl; auto)) as F.
  rewrite !projection_is_a_shift in T, F. unfold heads at 1 3 in T. unfold heads at 1 3 in F.
  lra.
Qed.

(* The slip in Proposition 1: the two need not be policies. *)
Theorem proposition_1_false_for_unnormalised_weights :
  ~ (forall (X Y : Type) (answers : list Y) (pi_ref : X -> Y -> R) beta pi pi' x y,
       (forall x, policy answers (pi_ref x)) -> 0 < beta -> positive answers pi_ref ->
       positive answers pi -> positive answers pi' -> In y answers ->
       equivalent answers (implicit_reward pi_ref beta pi) (implicit_reward pi_ref beta pi') ->
       implicit_reward pi_ref beta pi x y = implicit_reward pi_ref beta pi' x y).
Proof.
  intro H.
  assert (E : implicit_reward one 1 one tt tt = implicit_reward one 1 (fun _ _ => exp 1) tt tt).
  { apply (H unit unit [tt]); auto using one_policy, one_positive; try lra.
    - intros x y _. apply exp_pos.
    - simpl; auto.
    - exists (fun _ => -1). intros x y _. unfold implicit_reward, one.
      rewrite !ln_div, ln_exp, ln_1 by (try apply exp_pos; lra). ring. }
  unfold implicit_reward, one in E.
  rewrite !ln_div, ln_exp, ln_1 in E by (try apply exp_pos; lra). lra.
Qed.

(* The slip in A.4: its weight is that of section 4. *)
Theorem slip_of_a4_false_at_every_margin :
  ~ (forall beta z, 0 < beta -> - beta * sigma z = - beta * sigma (- z)).
Proof.
  intro H. specialize (H 1 1 ltac:(lra)).
  apply slip_of_a4_agrees_at_margin_zero_only in H; lra.
Qed.

(* The slip in 5.2: what (7) gives, for every answer against one of them, is a policy. *)
Theorem dpo_loss_false_as_a_policy :
  ~ (forall (X Y : Type) (answers : list Y) (pi_ref : X -> Y -> R) beta r x y0,
       (forall x, policy answers (pi_ref x)) -> 0 < beta -> positive answers pi_ref ->
       In y0 answers ->
       policy answers (fun y => exp (- L_DPO pi_ref beta [Comparison 1 x y y0]
         (pi_r answers pi_ref beta r)))).
Proof.
  intro H.
  destruct (H unit unit [tt] one 1 one tt tt one_policy ltac:(lra) one_positive
    ltac:(simpl; auto)) as [_ S].
  cbn [sum] in S. rewrite dpo_loss_of_a_pair_is_a_preference, even_preference in S;
    auto using one_policy; unfold one; lra.
Qed.

(* The slip on Table 3: any alpha gives the loss without its weight. *)
Theorem unlikelihood_false_as_unweighted_for_any_alpha :
  ~ (forall (f_w f_l : R -> R) d_w d_l beta alpha theta g_u g_m,
       0 < beta -> 0 < alpha ->
       derivable_pt_lim f_w theta d_w -> derivable_pt_lim f_l theta d_l ->
       derivable_pt_lim (fun t => - (f_w t - alpha * f_l t)) theta g_u ->
       derivable_pt_lim (fun t => - (beta * f_w t - beta * f_l t)) theta g_m ->
       beta * g_u = g_m).
Proof.
  intro H.
  assert (I : derivable_pt_lim (fun t => t) 0 1) by apply derivable_pt_lim_id.
  assert (U : derivable_pt_lim (fun t => - (t - 2 * t)) 0 1).
  { apply (derivable_pt_lim_ext (fun t => t)); [intro; ring | exact I]. }
  assert (M : derivable_pt_lim (fun t => - (1 * t - 1 * t)) 0 0).
  { apply (derivable_pt_lim_ext (fun _ => 0)); [intro; ring | apply derivable_pt_lim_const]. }
  specialize (H _ _ 1 1 1 2 0 1 0 ltac:(lra) ltac:(lra) I I U M). lra.
Qed.
